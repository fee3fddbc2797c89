"""ZO-LDSD: the best of several directions, drawn about a mean that learns from their losses."""

from collections.abc import Sequence
from typing import Any, Literal, Self, Unpack

import torch
from torch import Tensor

from bszo.core import central_difference
from bszo.optim.base import ZerothOrderOptimizer
from bszo.optim.hyperparameter import Hyperparameter, is_rate, number, one_of, whole
from bszo.optim.options import DifferenceOptions, Params, StateDtype, dtype_of_state, require
from bszo.optim.report import StepReport
from bszo.perturb import Directions, LossOracle, Shifted, Terms, mix64, seed_in_block

Noise = Literal["evaluated", "fresh"]
PlusSide = Literal["kept", "again"]


def _whole_or_none(value: Any) -> int | None:
    return None if value is None else whole(value)


class ZOLDSD(ZerothOrderOptimizer):
    """v_i = mu + s z_i,  F_i = L(theta + eps v_i),  v the v_i with the least F_i,
    theta <- theta - lr (g v + weight_decay theta),  g = (L(theta + eps v) - L(theta - eps v)) / (2
    eps),  mu <- mu - mean_lr 1/K sum_i a_i z_i / s,  a_i = F_i - mean of the other F.

    The directions are a policy N(mu, s^2 I), and mu descends by the score of each direction, z_i /
    s, weighed by its loss: on average by mean_lr eps grad L. mu starts at zero, where the policy is
    s times a Gaussian. Forward passes a step: K + 1, or K + 2 with plus_side="again". Extra memory:
    n elements of `state_dtype`.

    With mean_window=W no dense mu is held. It is the sum of the last W steps' moves,

        mu = - sum_t mean_lr 1/K sum_i a_ti z_ti / s,

    and is kept as W K pairs (seed, coefficient), which is all the extra memory. Up to step W this
    is the dense mu up to rounding; afterwards it forgets what is older. The cost: W K directions
    are made again in every pass and in the update, each of which then has up to W K + 1 terms, and
    a trajectory logs as many coefficients a step. A GPU compiles its kernels for each number of
    terms, which grows until step W. A rule that is given as `directions=` makes z whole, so that
    W K + K of them lie in memory within a step. mu starts at zero again when other parameters train
    than at the step before.

    Args:
        num_directions: K, at least 2.
        spread: s, a standard deviation.
        mean_lr: rate of mu; 0 keeps it at zero, so that the best of K Gaussian directions is left.
        mean_noise: mu moves along the z_i that were "evaluated", or along "fresh" ones (as run),
            which know nothing of the losses: mu then moves by zero on average, as a random walk.
        plus_side: the loss at theta + eps v is "kept" from the choice, or taken "again" (as run).
        state_dtype: of the dense mu: float32, or the parameter's own type.
        mean_window: W, at least 1 step; None keeps mu dense, and forgets nothing.
        params, lr, eps, weight_decay, ...: see ZerothOrderOptimizer.

    Raises:
        OptimError: with mean_window, groups have different mean_lr, for a pair has one coefficient;
            from `restrict`, a mask beside it.

    Source: Parfenov et al. 2026, arXiv 2602.13659. In its code the fresh z differ from the
        evaluated ones in all but one draw of the first tensor; here in all. It keeps mu dense.

    Example:
        >>> import torch
        >>> from bszo import ZOLDSD
        >>> theta = torch.nn.Parameter(torch.ones(6))
        >>> optimizer = ZOLDSD([theta], lr=0.02, eps=1e-3, num_directions=3)
        >>> losses = [optimizer.step(lambda: theta.square().sum()) for _ in range(50)]
        >>> losses[-1] < losses[0], optimizer.num_forwards
        (True, 200)
    """

    num_directions = Hyperparameter[int](
        whole, lambda k: k >= 2, "at least 2 are valid: each is compared with the others"
    )
    spread = Hyperparameter[float](
        number, lambda s: s > 0 and is_rate(s), "a positive, finite number is valid"
    )
    mean_lr = Hyperparameter[float](
        number, is_rate, "a finite number of at least 0 is valid", scope="group"
    )
    mean_noise: Hyperparameter[Noise] = Hyperparameter(one_of(Noise))
    plus_side: Hyperparameter[PlusSide] = Hyperparameter(one_of(PlusSide))
    state_dtype: Hyperparameter[StateDtype] = Hyperparameter(
        one_of(StateDtype), scope="construction"
    )
    mean_window = Hyperparameter[int | None](
        _whole_or_none,
        lambda w: w is None or w >= 1,
        "null, or at least 1 step, is valid",
        scope="construction",
        unsaid=None,
    )

    def __init__(
        self,
        params: Params,
        *,
        lr: float = 1e-6,
        num_directions: int = 5,
        spread: float = 1.0,
        mean_lr: float = 4e-2,
        mean_noise: Noise = "evaluated",
        plus_side: PlusSide = "kept",
        state_dtype: StateDtype = "float32",
        mean_window: int | None = None,
        **options: Unpack[DifferenceOptions],
    ) -> None:
        self.num_directions, self.spread, self.mean_lr = num_directions, spread, mean_lr
        self.mean_noise, self.plus_side, self.state_dtype = mean_noise, plus_side, state_dtype
        self.mean_window = mean_window
        super().__init__(params, lr=lr, **options)
        self._above: dict[int, float] = {}  # {seed: a_i} of this step
        # the moves of mu in the window, a step each, as {seed: coefficient}; a new tuple each step,
        # so that states share none
        self._moves: tuple[tuple[tuple[int, float], ...], ...] = ()
        self._moved: tuple[int, ...] = ()  # numbers of the parameters that they are of

    def check(self) -> None:
        super().check()
        if self.mean_window is not None:
            for i, group in enumerate(self.param_groups):
                require(
                    group["mean_lr"] == self.mean_lr,
                    f"mean_lr={group['mean_lr']!r} in group {i}: with mean_window a direction has"
                    f" one coefficient for all groups; {self.mean_lr!r} is valid",
                )

    def restrict(self, *, sparsity: float = 0.0, **more: Any) -> Self:
        """As every method's, but for masks beside mean_window: mu moved under masks that are
        gone."""
        require(
            sparsity == 0 or self.mean_window is None,
            f"sparsity={sparsity}: mean_window={self.mean_window} makes old directions again, not"
            " their masks; 0 is valid here, mean_window=None takes any",
        )
        return super().restrict(sparsity=sparsity, **more)

    def directions(self) -> Directions:
        """v = mu + s z, with mu as it stands when a direction is asked for. Over a window it is z
        itself, of which v is a sum, and of which none is kept whole."""
        self._above.clear()  # a step that failed has left its own
        if self.mean_window is None:
            return Shifted(self._family, self._mean(), self.spread)
        if self._moved != self.numbers():
            self._moves, self._moved = (), self.numbers()
        return self._family.singly()

    def estimate(self, oracle: LossOracle) -> tuple[Terms, StepReport]:
        seeds = self.direction_seeds(self.num_directions)
        losses = oracle.measure([self._along(seed, self.eps) for seed in seeds])
        f_plus = min(losses)
        best = seeds[losses.index(f_plus)]
        if self.plus_side == "again":
            f_plus = oracle.loss(self._along(best, self.eps))
        f_minus = oracle.loss(self._along(best, -self.eps))
        y = central_difference(f_plus, f_minus, self.eps)
        others = len(losses) - 1
        for seed, loss in zip(seeds, losses, strict=True):
            self._above[seed] = loss - (sum(losses) - loss) / others
        return self._along(best, y), StepReport((f_plus + f_minus) / 2, (y,))

    def _along(self, seed: int, c: float) -> Terms:
        """c v of a seed, in terms of this step's `directions`."""
        if self.mean_window is None:
            return {seed: c}
        count = self._num_blocks()
        mean = {
            other: c * coefficient
            for move in self._moves
            for other, coefficient in move
            if not count or other % count == seed % count  # mu, too, is zero outside the block
        }
        return {**mean, seed: c * self.spread}

    def apply_(self, oracle: LossOracle, gradient: Terms) -> None:
        super().apply_(oracle, gradient)
        self._learn()

    @torch.no_grad()
    def _learn(self) -> None:
        """mu <- mu - mean_lr 1/K sum_i a_i z_i / s."""
        unit = 1 / (self.num_directions * self.spread)
        above = {
            seed if self.mean_noise == "evaluated" else self._fresh(seed): a
            for seed, a in self._above.items()
        }
        if self.mean_window is not None:
            move = tuple((seed, -self.mean_lr * unit * a) for seed, a in above.items())
            # a rate of 0 moves nothing, so that nothing of it is made again
            self._moves = (*self._moves, move if self.mean_lr else ())[-self.mean_window :]
            return
        family = self.restricted(self._family)
        for i, p, group in self.with_groups():
            mu = self.state[p]["mean"]
            wide = torch.promote_types(mu.dtype, torch.float32)
            for seed, a in family.own(i, above).items():
                step = (group["mean_lr"] * unit * a) * family.direction(seed, i).to(wide)
                mu.sub_(step.to(mu.dtype))

    def _fresh(self, seed: int) -> int:
        """The seed of noise that no loss has seen, in the same block."""
        other, count = mix64(seed, 1), self._num_blocks()
        return seed_in_block(other, seed % count, count) if count else other

    def _num_blocks(self) -> int:
        return len(self._restricted.blocks) if self._restricted else 0

    def scalar_state(self) -> dict[str, Any]:
        return (
            {}
            if self.mean_window is None
            else {**super().scalar_state(), "_moves": self._moves, "_moved": self._moved}
        )

    def _require_same(
        self, groups: Sequence[dict[str, Any]], own: dict[str, Any], restriction: Any
    ) -> None:
        """As every method's; a state from before there were windows does not say that it has
        none."""
        super()._require_same(groups, own, restriction)
        require(
            self.mean_window is None or "_moves" in own,
            f"state_dict was saved with mean_window=None, here it is {self.mean_window}; an"
            " optimizer that was built with the same is valid",
        )

    def _mean(self) -> Sequence[Tensor]:
        for p in self._params:
            if "mean" not in self.state[p]:
                self.state[p]["mean"] = torch.zeros_like(
                    p, dtype=dtype_of_state(p, self.state_dtype)
                )
        return [self.state[p]["mean"] for p in self._params]
