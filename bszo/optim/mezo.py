"""MeZO: SPSA by seeds, a step of plain SGD along one random direction."""

from torch import nn

from bszo.core import central_difference
from bszo.optim.base import (
    Params,
    Perturbation,
    Rounding,
    StepReport,
    ZerothOrderOptimizer,
    require,
)
from bszo.perturb import DirectionFunction, LossOracle, Terms


class MeZO(ZerothOrderOptimizer):
    """theta <- theta - lr (g z + weight_decay theta),  g = (L(theta + eps z) - L(theta - eps z)) /
    (2 eps).

    With q directions the estimate is the mean of q such g z (n-SPSA). Forward passes a step: 2 q.
    Extra memory: none.

    Args:
        num_directions: q.
        params, lr, eps, weight_decay, seed, perturbation, module, directions, rounding: see
            ZerothOrderOptimizer.

    Source: Malladi et al. 2023, arXiv 2305.17333, Algorithm 1 and Definition 1.
    """

    def __init__(
        self,
        params: Params,
        *,
        lr: float = 1e-6,
        eps: float = 1e-4,
        num_directions: int = 1,
        weight_decay: float = 0.0,
        seed: int = 0,
        perturbation: Perturbation = "exact",
        module: nn.Module | None = None,
        directions: DirectionFunction | None = None,
        rounding: Rounding = "nearest",
    ) -> None:
        require(num_directions >= 1, f"num_directions={num_directions}: at least 1 is valid")
        super().__init__(
            params,
            lr=lr,
            eps=eps,
            weight_decay=weight_decay,
            seed=seed,
            perturbation=perturbation,
            module=module,
            directions=directions,
            rounding=rounding,
        )
        self.num_directions = num_directions

    def estimate(self, oracle: LossOracle) -> tuple[Terms, StepReport]:
        gradient: dict[int, float] = {}
        losses: list[float] = []
        observations: list[float] = []
        seeds = self.direction_seeds(self.num_directions)
        sides = oracle.measure([{seed: c} for seed in seeds for c in (self.eps, -self.eps)])
        for seed, f_plus, f_minus in zip(seeds, sides[::2], sides[1::2], strict=True):
            y = central_difference(f_plus, f_minus, self.eps)
            gradient[seed] = y / self.num_directions
            observations.append(y)
            losses.append((f_plus + f_minus) / 2)
        return gradient, StepReport(sum(losses) / len(losses), tuple(observations))
