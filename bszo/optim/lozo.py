"""LOZO: MeZO along low-rank directions, in a subspace that is kept for a while."""

from collections.abc import Sequence
from typing import Literal, Unpack

from torch import Tensor

from bszo.optim.hyperparameter import Hyperparameter, one_of
from bszo.optim.options import DifferenceOptions, Params, require
from bszo.optim.redrawn import Redrawn
from bszo.perturb import Directions, LossOracle, LowRank, Terms, mix64

Scale = Literal["1/r", "none"]
RedrawStream = Literal["same", "as-run"]


class LOZO(Redrawn):
    """theta <- theta - lr (s g P + weight_decay theta),  P = U V^T,
    g = (L(theta + eps P) - L(theta - eps P)) / (2 eps).

    U (rows, r) is drawn at every step, V (columns, r) every `interval` steps; vectors have Gaussian
    directions. s = 1/r makes s g P an unbiased estimate of a matrix's gradient, since E[<G, P> P] =
    r G; a vector needs no factor. Forward passes a step: 2. Extra memory: none, for V is drawn
    again from its seed (r (rows + columns) elements a matrix while it runs).

    Args:
        rank: r.
        interval: steps between redraws of V.
        scale: s, "1/r" (as printed) or "none" (s = 1, as run).
        redraw_stream: "same" steps along the direction that was measured; "as-run" draws another U
            for the step whenever V is redrawn, as the published code does by accident.
        params, lr, eps, weight_decay, seed, perturbation, module, directions, rounding: see
            ZerothOrderOptimizer.

    Raises:
        OptimError: no parameter is a matrix, or `rank` is above the smaller side of each.

    Source: Chen et al. 2024, arXiv 2410.07698, Algorithm 1.

    Example:
        >>> import torch
        >>> from bszo import LOZO
        >>> theta = torch.nn.Parameter(torch.ones(6, 5))
        >>> optimizer = LOZO([theta], lr=0.01, eps=1e-3, rank=2, interval=10)
        >>> losses = [optimizer.step(lambda: theta.square().sum()) for _ in range(50)]
        >>> losses[-1] < losses[0]
        True
    """

    scale: Hyperparameter[Scale] = Hyperparameter(one_of(Scale))
    redraw_stream: Hyperparameter[RedrawStream] = Hyperparameter(one_of(RedrawStream))

    def __init__(
        self,
        params: Params,
        *,
        lr: float = 1e-6,
        rank: int = 2,
        interval: int = 50,
        scale: Scale = "1/r",
        redraw_stream: RedrawStream = "same",
        **options: Unpack[DifferenceOptions],
    ) -> None:
        self.scale, self.redraw_stream = scale, redraw_stream
        super().__init__(params, lr=lr, rank=rank, interval=interval, **options)
        if not self.injected:
            matrices = [p for p in self.trainable() if p.ndim >= 2]
            most = max(min(p.shape[0], p.shape[1:].numel()) for p in matrices)
            require(
                self.rank <= most,
                f"rank={self.rank}: the trained matrices' smaller sides are {most} at most; 1 to"
                f" {most} is valid",
            )

    def apply_(self, oracle: LossOracle, gradient: Terms) -> None:
        elsewhere = (
            self.redraw_stream == "as-run"
            and self.num_steps % self.interval == 0
            and not self.injected
        )
        scales = self.scales(oracle.params)
        lr = [rate * scale for rate, scale in zip(self.per_parameter("lr"), scales, strict=True)]
        decay = [
            rate / scale
            for rate, scale in zip(self.per_parameter("weight_decay"), scales, strict=True)
        ]
        along = self.restricted(self.subspace(self.draw, stream=1)) if elsewhere else None
        oracle.move_(gradient, lr, decay, along=along)

    def scales(self, params: Sequence[Tensor]) -> list[float]:
        """s for each parameter; a vector's Gaussian estimate needs no factor."""
        return [1.0 / self.rank if p.ndim >= 2 and self.scale == "1/r" else 1.0 for p in params]

    def subspace(self, draw: int, stream: int = 0) -> Directions:
        """The family of directions U V^T whose V is the draw-th that was drawn."""
        basis_seed = mix64(self.seed, draw, -2)
        return self.numbered(lambda params: LowRank(params, self.rank, basis_seed, stream))
