"""MeZO: central differences along Gaussian directions."""

from typing import Unpack

from bszo.core import central_difference
from bszo.optim.base import ZerothOrderOptimizer
from bszo.optim.hyperparameter import Hyperparameter, whole
from bszo.optim.options import DifferenceOptions, Params
from bszo.optim.report import StepReport
from bszo.perturb import LossOracle, Terms


class MeZO(ZerothOrderOptimizer):
    """theta <- theta - lr (g z + weight_decay theta),
    g = (L(theta + eps z) - L(theta - eps z)) / (2 eps).

    With q directions the estimate is the mean of q such g z (n-SPSA). Forward passes a step: 2 q.
    Extra memory: none.

    Args:
        num_directions: q.
        params, lr, eps, weight_decay, seed, perturbation, module, directions, rounding: see
            ZerothOrderOptimizer.

    Source: Malladi et al. 2023, arXiv 2305.17333, Algorithm 1 and Definition 1.

    Example:
        >>> import torch
        >>> from bszo import MeZO
        >>> net = torch.nn.Linear(4, 1).eval()
        >>> optimizer = MeZO(net.parameters(), lr=0.01, eps=1e-3, module=net)
        >>> x, y = torch.eye(4), torch.ones(4, 1)
        >>> losses = [optimizer.step(lambda: (net(x) - y).square().mean()) for _ in range(50)]
        >>> losses[-1] < losses[0], optimizer.num_forwards
        (True, 100)
    """

    num_directions = Hyperparameter[int](whole, lambda q: q >= 1, "at least 1 is valid")

    def __init__(
        self,
        params: Params,
        *,
        lr: float = 1e-6,
        num_directions: int = 1,
        **options: Unpack[DifferenceOptions],
    ) -> None:
        self.num_directions = num_directions
        super().__init__(params, lr=lr, **options)

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
