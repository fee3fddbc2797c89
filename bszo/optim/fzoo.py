"""FZOO: one-sided Rademacher directions, and a step in units of the losses' own spread."""

import statistics
from collections.abc import Sequence
from typing import Literal, Unpack

from torch import Tensor

from bszo.core import forward_difference
from bszo.optim.base import ZerothOrderOptimizer
from bszo.optim.hyperparameter import Hyperparameter, one_of, whole
from bszo.optim.options import DifferenceOptions, Params
from bszo.optim.report import StepReport
from bszo.perturb import Directions, Gaussian, LossOracle, Terms

Deviation = Literal["sample", "population"]


class FZOO(ZerothOrderOptimizer):
    """theta <- theta - lr (1/N sum_i (L_i - L_0) / sigma u_i + weight_decay theta),
    L_i = L(theta + eps u_i).

    u_i has entries +1 and -1, sigma is the standard deviation of L_1 .. L_N, about eps |grad L|: so
    the mean step is lr along the normalised gradient, whatever the loss's scale. The step is
    zero where sigma is zero. Forward passes a step: N + 1. Extra memory: none.

    Args:
        num_directions: N, at least 2.
        deviation: sigma divides the sum of squares by N - 1 ("sample") or by N ("population", as
            run, whose steps are longer by sqrt(N / (N - 1)): 1.069 at N = 8).
        params, lr, eps, weight_decay, seed, perturbation, module, directions, rounding: see
            ZerothOrderOptimizer.

    Source: Dang et al. 2025, arXiv 2506.09034. The paper prints the estimate with the 1/eps of a
        directional derivative, so that its learning rate would be this one times eps; its public
        code leaves 1/eps out, as this does.

    Example:
        >>> import torch
        >>> from bszo import FZOO
        >>> theta = torch.nn.Parameter(torch.ones(6))
        >>> optimizer = FZOO([theta], lr=0.02, eps=1e-3, num_directions=4)
        >>> losses = [optimizer.step(lambda: 1e6 * theta.square().sum()) for _ in range(50)]
        >>> losses[-1] < losses[0]
        True
    """

    num_directions = Hyperparameter[int](
        whole, lambda n: n >= 2, "at least 2 are valid: one has no spread"
    )

    deviation: Hyperparameter[Deviation] = Hyperparameter(one_of(Deviation), unsaid="sample")

    def __init__(
        self,
        params: Params,
        *,
        lr: float = 1e-4,
        num_directions: int = 8,
        deviation: Deviation = "sample",
        **options: Unpack[DifferenceOptions],
    ) -> None:
        self.num_directions, self.deviation = num_directions, deviation
        super().__init__(params, lr=lr, **options)

    def make_family(self, params: Sequence[Tensor]) -> Directions:
        return Gaussian(params, "rademacher")

    def estimate(self, oracle: LossOracle) -> tuple[Terms, StepReport]:
        seeds = self.direction_seeds(self.num_directions)
        f_0, *losses = oracle.measure([{}, *({seed: self.eps} for seed in seeds)])
        sigma = (statistics.stdev if self.deviation == "sample" else statistics.pstdev)(losses)
        unit = 1 / (self.num_directions * sigma) if sigma else 0.0
        gradient = {seed: (loss - f_0) * unit for seed, loss in zip(seeds, losses, strict=True)}
        return gradient, StepReport(
            f_0, tuple(forward_difference(loss, f_0, self.eps) for loss in losses)
        )
