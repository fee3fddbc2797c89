"""FZOO: one-sided Rademacher directions, and a step in units of the losses' own spread."""

from typing import Unpack

from bszo.optim.base import ZerothOrderOptimizer
from bszo.optim.es import ES, Baseline, Deviation, Law, Score, Weight
from bszo.optim.options import DifferenceOptions, Params


class FZOO(ES):
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

    # ES with these settings, which are the method and no hyperparameters of it
    baseline: Baseline = "L_0"  # type: ignore[assignment]
    score: Score = "z-score"  # type: ignore[assignment]
    law: Law = "rademacher"  # type: ignore[assignment]
    antithetic: bool = False  # type: ignore[assignment]
    weight: Weight = "1/N"  # type: ignore[assignment]
    rank: int = 1  # type: ignore[assignment]

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
        ZerothOrderOptimizer.__init__(self, params, lr=lr, **options)
