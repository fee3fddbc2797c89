"""ZO-LDSD: the best of several directions, drawn about a mean that learns from their losses."""

from collections.abc import Sequence
from typing import Literal, Unpack

import torch
from torch import Tensor

from bszo.core import central_difference
from bszo.optim.base import ZerothOrderOptimizer
from bszo.optim.hyperparameter import Hyperparameter, is_rate, number, one_of, whole
from bszo.optim.options import DifferenceOptions, Params, StateDtype, dtype_of_state
from bszo.optim.report import StepReport
from bszo.perturb import Directions, LossOracle, Shifted, Terms, mix64, seed_in_block

Noise = Literal["evaluated", "fresh"]
PlusSide = Literal["kept", "again"]


class ZOLDSD(ZerothOrderOptimizer):
    """v_i = mu + s z_i,  F_i = L(theta + eps v_i),  v the v_i with the least F_i,
    theta <- theta - lr (g v + weight_decay theta),  g = (L(theta + eps v) - L(theta - eps v)) / (2
    eps),  mu <- mu - mean_lr 1/K sum_i a_i z_i / s,  a_i = F_i - mean of the other F.

    The directions are a policy N(mu, s^2 I), and mu descends by the score of each direction, z_i /
    s, weighed by its loss: on average by mean_lr eps grad L. mu starts at zero, where the policy is
    s times a Gaussian. Forward passes a step: K + 1, or K + 2 with plus_side="again". Extra memory:
    n elements of `state_dtype`.

    Args:
        num_directions: K, at least 2.
        spread: s, a standard deviation.
        mean_lr: rate of mu; 0 keeps it at zero, so that the best of K Gaussian directions is left.
        mean_noise: mu moves along the z_i that were "evaluated", or along "fresh" ones (as run),
            which know nothing of the losses: mu then moves by zero on average, as a random walk.
        plus_side: the loss at theta + eps v is "kept" from the choice, or taken "again" (as run).
        state_dtype: of mu: float32, or the parameter's own type.
        params, lr, eps, weight_decay, ...: see ZerothOrderOptimizer.

    Source: Parfenov et al. 2026, arXiv 2602.13659. In its code the fresh z differ from the
        evaluated ones in all but one draw of the first tensor; here in all.

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
    state_dtype: Hyperparameter[StateDtype] = Hyperparameter(one_of(StateDtype))

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
        **options: Unpack[DifferenceOptions],
    ) -> None:
        self.num_directions, self.spread, self.mean_lr = num_directions, spread, mean_lr
        self.mean_noise, self.plus_side, self.state_dtype = mean_noise, plus_side, state_dtype
        super().__init__(params, lr=lr, **options)
        self._above: dict[int, float] = {}  # {seed: a_i} of this step

    def directions(self) -> Directions:
        """v = mu + s z, with mu as it stands when a direction is asked for."""
        self._above.clear()  # a step that failed has left its own
        return Shifted(self._family, self._mean(), self.spread)

    def estimate(self, oracle: LossOracle) -> tuple[Terms, StepReport]:
        seeds = self.direction_seeds(self.num_directions)
        losses = oracle.measure([{seed: self.eps} for seed in seeds])
        f_plus = min(losses)
        best = seeds[losses.index(f_plus)]
        if self.plus_side == "again":
            f_plus = oracle.loss({best: self.eps})
        f_minus = oracle.loss({best: -self.eps})
        y = central_difference(f_plus, f_minus, self.eps)
        others = len(losses) - 1
        for seed, loss in zip(seeds, losses, strict=True):
            self._above[seed] = loss - (sum(losses) - loss) / others
        return {best: y}, StepReport((f_plus + f_minus) / 2, (y,))

    def apply_(self, oracle: LossOracle, gradient: Terms) -> None:
        super().apply_(oracle, gradient)
        self._learn()

    @torch.no_grad()
    def _learn(self) -> None:
        """mu <- mu - mean_lr 1/K sum_i a_i z_i / s."""
        family = self.restricted(self._family)
        unit = 1 / (self.num_directions * self.spread)
        above = {
            seed if self.mean_noise == "evaluated" else self._fresh(seed): a
            for seed, a in self._above.items()
        }
        for i, p, group in self.with_groups():
            mu = self.state[p]["mean"]
            wide = torch.promote_types(mu.dtype, torch.float32)
            for seed, a in family.own(i, above).items():
                step = (group["mean_lr"] * unit * a) * family.direction(seed, i).to(wide)
                mu.sub_(step.to(mu.dtype))

    def _fresh(self, seed: int) -> int:
        """The seed of noise that no loss has seen, in the same block."""
        other = mix64(seed, 1)
        count = len(self._restricted.blocks) if self._restricted else 0
        return seed_in_block(other, seed % count, count) if count else other

    def _mean(self) -> Sequence[Tensor]:
        for p in self._params:
            if "mean" not in self.state[p]:
                self.state[p]["mean"] = torch.zeros_like(
                    p, dtype=dtype_of_state(p, self.state_dtype)
                )
        return [self.state[p]["mean"] for p in self._params]
