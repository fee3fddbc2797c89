"""FZOO: one-sided Rademacher directions, and a step in units of the losses' own spread."""

import statistics
from collections.abc import Sequence

from torch import Tensor, nn

from bszo.core import forward_difference
from bszo.optim.base import (
    Params,
    Perturbation,
    Rounding,
    StepReport,
    ZerothOrderOptimizer,
    require,
)
from bszo.perturb import DirectionFunction, Directions, Gaussian, LossOracle, Terms


class FZOO(ZerothOrderOptimizer):
    """theta <- theta - lr (1/N sum_i (L_i - L_0) / sigma u_i + weight_decay theta),  L_i = L(theta
    + eps u_i).

    u_i has entries +1 and -1, sigma is the sample standard deviation of L_1 .. L_N, about eps |grad
    L|: so the mean step is lr along the normalised gradient, whatever the loss's scale. Where sigma
    is 0 the step is. Forward passes a step: N + 1. Extra memory: none.

    Args:
        num_directions: N, at least 2.
        params, lr, eps, weight_decay, seed, perturbation, module, directions, rounding: see
            ZerothOrderOptimizer.

    Source: Dang et al. 2025, arXiv 2506.09034. With the 1/eps of a directional derivative kept in
        the estimate, its
    learning rate is this one times eps.
    """

    def __init__(
        self,
        params: Params,
        *,
        lr: float = 1e-4,
        eps: float = 1e-4,
        num_directions: int = 8,
        weight_decay: float = 0.0,
        seed: int = 0,
        perturbation: Perturbation = "exact",
        module: nn.Module | None = None,
        directions: DirectionFunction | None = None,
        rounding: Rounding = "nearest",
    ) -> None:
        require(
            num_directions >= 2,
            f"num_directions={num_directions}: at least 2 are valid: one has no spread",
        )
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

    def make_family(self, params: Sequence[Tensor]) -> Directions:
        return Gaussian(params, "rademacher")

    def estimate(self, oracle: LossOracle) -> tuple[Terms, StepReport]:
        seeds = self.direction_seeds(self.num_directions)
        f_0, *losses = oracle.measure([{}, *({seed: self.eps} for seed in seeds)])
        sigma = statistics.stdev(losses)
        unit = 1 / (self.num_directions * sigma) if sigma else 0.0
        gradient = {seed: (loss - f_0) * unit for seed, loss in zip(seeds, losses, strict=True)}
        return gradient, StepReport(
            f_0, tuple(forward_difference(loss, f_0, self.eps) for loss in losses)
        )
