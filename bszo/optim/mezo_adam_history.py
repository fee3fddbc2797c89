"""MeZO-Adam without dense moments: they are made again, a parameter at a time, from the last steps'
(seed, g)."""

from typing import Any, Literal, Self, Unpack

import torch
from torch import Tensor

from bszo.optim.hyperparameter import Hyperparameter, one_of, whole
from bszo.optim.mezo_adam import Betas, MeZOAdam, change, learn_
from bszo.optim.options import DifferenceOptions, Params, require
from bszo.optim.pieces import pieces
from bszo.optim.report import StepReport
from bszo.perturb import Gaussian, LossOracle, Terms


class MeZOAdamHistory(MeZOAdam):
    """MeZO-Adam's step, with the moments that Adam has when it starts from zero and sees the last W
    gradients alone:

        m = (1 - b1) sum_s b1^(t-s) G_s,  v = (1 - b2) sum_s b2^(t-s) G_s^2,  G_s = sum_i g_si z_si,
        t - W < s <= t.

    Both are corrected for the number of these gradients; a parameter that trained in only some of
    the last W steps has only those. Up to step W this is MeZO-Adam with fp32 moments, on a CPU bit
    for bit; afterwards it forgets what is older than W steps, whose weight would be b1^W in m and
    b2^W in v. Forward passes a step: 2 q. Extra memory: W q pairs (seed, g), and both moments of
    one parameter while it is moved (of all of them in a small model, whose z is made whole). Cost:
    W q n directions' elements made again a step, beside the 3 q n that MeZO makes.

    Args:
        window: W.
        params, lr, eps, num_directions, betas, adam_eps, ...: see MeZOAdam.

    Raises:
        OptimError: an argument is out of range; from `restrict`, a mask; from `step`, other blocks
            than before.

    Source: Malladi et al. 2023, arXiv 2305.17333, appendix (described there, never released).

    Example:
        >>> import torch
        >>> from bszo import MeZOAdamHistory
        >>> theta = torch.nn.Parameter(torch.ones(6))
        >>> optimizer = MeZOAdamHistory([theta], lr=0.05, eps=1e-3, window=16)
        >>> losses = [optimizer.step(lambda: theta.square().sum()) for _ in range(50)]
        >>> losses[-1] < losses[0], len(optimizer.state)
        (True, 0)
    """

    state_dtype: Hyperparameter[Literal["float32", "parameter"]] = Hyperparameter(
        one_of(Literal["float32"])
    )
    window = Hyperparameter[int](whole, lambda w: w >= 1, "at least 1 step is valid")

    def __init__(
        self,
        params: Params,
        *,
        lr: float = 1e-5,
        num_directions: int = 1,
        betas: Betas = (0.9, 0.999),
        adam_eps: float = 1e-8,
        window: int = 64,
        **options: Unpack[DifferenceOptions],
    ) -> None:
        self.window = window
        super().__init__(
            params,
            lr=lr,
            num_directions=num_directions,
            betas=betas,
            adam_eps=adam_eps,
            **options,
        )
        # a new one each step, so that states share none
        self._history: tuple[tuple[tuple[int, float], ...], ...] = ()
        self._trained: tuple[tuple[int, ...], ...] = ()  # numbers of those that each step moved
        self._blocks = 0  # how many there were, which is how a seed names its own

    def restrict(self, *, sparsity: float = 0.0, **more: Any) -> Self:
        """As every method's, but for masks: the window's gradients were measured under masks that
        are gone."""
        require(
            sparsity == 0,
            f"sparsity={sparsity}: MeZO-Adam from its history makes old directions again, not their"
            " masks; 0 is valid here, MeZOAdam takes any",
        )
        return super().restrict(**more)

    @torch.no_grad()
    def apply_(self, oracle: LossOracle, gradient: Terms) -> None:
        oracle.home()
        self._history = (*self._history, tuple(gradient.items()))[-self.window :]
        self._trained = (*self._trained, self._numbers())[-self.window :]
        groups = {i: group for i, _, group in self.with_groups()}
        for together in self._together():
            for i, (m, v) in self._moments(oracle, together, groups).items():
                group, wide = groups[i], torch.promote_types(oracle.params[i].dtype, torch.float32)
                lr, (b1, b2), adam_eps = group["lr"], group["betas"], group["adam_eps"]
                age = sum(self._had_part(i))
                delta = change(m.to(wide), v.to(wide), age, lr, b1, b2, adam_eps)
                oracle.add_(i, delta, decay=1 - lr * group["weight_decay"])

    def _together(self) -> list[list[int]]:
        """Parameters whose moments are made together: all, where z comes whole, for then one sweep
        a seed is enough."""
        everything = list(range(len(self._params)))
        whole = self.injected is not None or (
            isinstance(self._family, Gaussian) and self._family.small
        )
        return [everything] if whole else [[i] for i in everything]

    def _moments(
        self, oracle: LossOracle, together: list[int], groups: dict[int, dict[str, Any]]
    ) -> dict[int, tuple[Tensor, Tensor]]:
        made = {
            i: (
                torch.zeros_like(self._params[i], dtype=torch.float32),
                torch.zeros_like(self._params[i], dtype=torch.float32),
            )
            for i in together
        }
        had_part = {i: self._had_part(i) for i in together}
        for step, past in enumerate(self._history):
            for i, (m, v) in made.items():
                if not had_part[i][step]:
                    continue
                for m_, v_, g_ in pieces(m, v, oracle.dense(i, dict(past))):
                    learn_(m_, v_, g_, *groups[i]["betas"])
            oracle.directions.release()
        return made

    def _numbers(self) -> tuple[int, ...]:
        """The numbers of the parameters that train now; one object for as long as they are the
        same."""
        numbers = self.numbers()
        return self._trained[-1] if self._trained[-1:] == (numbers,) else numbers

    def _had_part(self, i: int) -> list[bool]:
        """Whether the i-th parameter trained, for each remembered step."""
        number = self._numbers()[i]
        return [number in numbers for numbers in self._trained]

    def gradient(self, oracle: LossOracle) -> tuple[Terms, StepReport]:
        count = len(self._restricted.blocks) if self._restricted else 0
        same = count == self._blocks and (not count or self._trained[-1:] == (self.numbers(),))
        require(
            not self._history or same,
            f"blocks: the remembered directions lie in {self._blocks} blocks of the parameters that"
            f" trained then, and there are {count} of those that train now; a new optimizer is"
            " valid",
        )
        self._blocks = count
        return super().gradient(oracle)

    def scalar_state(self) -> dict[str, Any]:
        return {"_history": self._history, "_trained": self._trained, "_blocks": self._blocks}

    def load_scalars(self, saved: dict[str, Any]) -> None:
        """An older state is of an optimizer whose parameters all trained at every step."""
        super().load_scalars(saved)
        if "_trained" not in saved:
            self._trained = (tuple(range(len(self.trainable()))),) * len(self._history)
            self._blocks = len(self._restricted.blocks) if self._restricted else 0
