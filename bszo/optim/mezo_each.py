"""MeZO with a direction for each example of a batch: as many directions as examples, in the two
passes of one."""

from typing import Unpack

from bszo.core import central_difference
from bszo.optim.options import Params
from bszo.optim.per_example import OwnOptions, PerExampleOptimizer, own_seeds
from bszo.optim.report import StepReport
from bszo.perturb import LossOracle, Terms


class EachMeZO(PerExampleOptimizer):
    """theta <- theta - lr (mean_e g_e z_e + weight_decay theta),
    g_e = (l_e(theta + eps z_e) - l_e(theta - eps z_e)) / (2 eps),  e = 1 .. B.

    l_e is the loss of example e, and z_e its own direction in the weights of linear layers, and in
    vectors and embeddings where asked; all else stays (`PerExampleOptimizer`, which also says what
    the closure returns).

    With n elements that move, the estimate's mean squared length is about
    n mean_e |grad l_e|^2 / B, where MeZO's shared direction has n |grad L|^2, L = mean_e l_e. Their
    ratio B |grad L|^2 / mean_e |grad l_e|^2 lies between 0 and B: own directions win where the
    examples' gradients agree, and lose where they cancel. Forward passes a step: 2, without a
    perturbed weight. Extra memory: 4 r (rows + columns) B bytes a matrix, during a step.

    Args:
        rank: r.
        eps: the factor of z_e in a perturbation.
        distribution, vectors, embeddings, subspace, subspace_interval, stacked, momentum, module,
            params, lr, weight_decay, seed, directions, rounding: see PerExampleOptimizer.

    Raises:
        OptimError: see PerExampleOptimizer.

    Source: Wen et al. 2018 (Flipout), arXiv 1803.04386; GRZO 2026, arXiv 2606.02857.

    Example:
        >>> import torch
        >>> from bszo import EachMeZO
        >>> net = torch.nn.Linear(4, 1, bias=False).eval()
        >>> optimizer = EachMeZO(net.parameters(), lr=0.05, eps=1e-3, module=net)
        >>> x, y = torch.eye(4), torch.ones(4, 1)
        >>> losses = [optimizer.step(lambda: (net(x) - y).square()[:, 0]) for _ in range(50)]
        >>> losses[-1] < losses[0], optimizer.num_forwards
        (True, 100)
    """

    def __init__(
        self,
        params: Params,
        *,
        lr: float = 1e-6,
        eps: float = 1e-3,
        **options: Unpack[OwnOptions],
    ) -> None:
        super().__init__(params, lr=lr, eps=eps, **options)

    def estimate(self, oracle: LossOracle) -> tuple[Terms, StepReport]:
        (seed,) = self.direction_seeds(1)
        own = own_seeds(seed)
        plus, minus = oracle.measure_each([(own, self.eps), (own, -self.eps)], at_once=self.stacked)
        slopes = [central_difference(p, m, self.eps) for p, m in zip(plus, minus, strict=True)]
        count = len(slopes)
        gradient = {s: g / count for s, g in zip(own(count), slopes, strict=True)}
        loss = (sum(plus) + sum(minus)) / (2 * count)
        return gradient, StepReport(loss, tuple(slopes), examples=count)
