"""MeZO-Adam without dense moments: they are made again, a parameter at a time, from the last steps'
(seed, g)."""

from typing import Any, Self

import torch
from torch import Tensor, nn

from bszo.optim.base import Params, Perturbation, Rounding, require
from bszo.optim.mezo_adam import MeZOAdam, change, learn_
from bszo.perturb import DirectionFunction, Gaussian, LossOracle, Terms


class MeZOAdamHistory(MeZOAdam):
    """MeZO-Adam's step, with the moments that Adam has when it starts from zero and sees the last W
    gradients alone:

        m = (1 - b1) sum_s b1^(t-s) G_s,  v = (1 - b2) sum_s b2^(t-s) G_s^2,  G_s = sum_i g_si z_si,
        t - W < s <= t,

    bias-corrected for min(t, W) gradients. Up to step W it is MeZO-Adam with fp32 moments, bit for
    bit; afterwards it forgets what is older than W, of which b1^W and b2^W say the weight. Forward
    passes a step: 2 q. Extra memory: W q pairs (seed, g), and both moments of one parameter while
    it is moved (of all of them in a small model, whose z is made whole). Cost: W q n directions'
    elements made again a step, beside the 3 q n that MeZO makes.

    Args:
        window: W.
        params, lr, eps, num_directions, betas, adam_eps, ...: see MeZOAdam.

    Source: Malladi et al. 2023, arXiv 2305.17333, appendix (described there, never released).
    """

    def __init__(
        self,
        params: Params,
        *,
        lr: float = 1e-5,
        eps: float = 1e-4,
        num_directions: int = 1,
        betas: tuple[float, float] = (0.9, 0.999),
        adam_eps: float = 1e-8,
        window: int = 64,
        weight_decay: float = 0.0,
        seed: int = 0,
        perturbation: Perturbation = "exact",
        module: nn.Module | None = None,
        directions: DirectionFunction | None = None,
        rounding: Rounding = "nearest",
    ) -> None:
        require(window >= 1, f"window={window}: at least 1 step is valid")
        super().__init__(
            params,
            lr=lr,
            eps=eps,
            num_directions=num_directions,
            betas=betas,
            adam_eps=adam_eps,
            weight_decay=weight_decay,
            seed=seed,
            perturbation=perturbation,
            module=module,
            directions=directions,
            rounding=rounding,
        )
        self.window = window
        # a new one each step, so that states share none
        self._history: tuple[tuple[tuple[int, float], ...], ...] = ()

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
        lr, weight_decay = self.per_parameter("lr"), self.per_parameter("weight_decay")
        for group in self._groups():
            for i, (m, v) in self._moments(oracle, group).items():
                wide = torch.promote_types(oracle.params[i].dtype, torch.float32)
                delta = change(
                    m.to(wide), v.to(wide), len(self._history), lr[i], *self.betas, self.adam_eps
                )
                oracle.add_(i, delta, decay=1 - lr[i] * weight_decay[i])

    def _groups(self) -> list[list[int]]:
        """Parameters whose moments are made together: all, where z comes whole, for then one sweep
        a seed is enough."""
        everything = list(range(len(self._params)))
        whole = self.injected is not None or (
            isinstance(self._family, Gaussian) and self._family.small
        )
        return [everything] if whole else [[i] for i in everything]

    def _moments(self, oracle: LossOracle, group: list[int]) -> dict[int, tuple[Tensor, Tensor]]:
        made = {
            i: (
                torch.zeros_like(self._params[i], dtype=torch.float32),
                torch.zeros_like(self._params[i], dtype=torch.float32),
            )
            for i in group
        }
        for past in self._history:
            for i, (m, v) in made.items():
                learn_(m, v, oracle.dense(i, dict(past)), *self.betas)
            oracle.directions.release()
        return made

    def scalar_state(self) -> dict[str, Any]:
        return {**super().scalar_state(), "_history": self._history}
