"""LOZO: MeZO along low-rank directions, in a subspace that is kept for a while."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from bszo.optim.base import Params, Perturbation, Rounding, require
from bszo.optim.mezo import MeZO
from bszo.perturb import DirectionFunction, Directions, LossOracle, LowRank, Terms, mix64


class LOZO(MeZO):
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

    Source: Chen et al. 2024, arXiv 2410.07698, Algorithm 1.
    """

    def __init__(
        self,
        params: Params,
        *,
        lr: float = 1e-6,
        eps: float = 1e-4,
        rank: int = 2,
        interval: int = 50,
        scale: Literal["1/r", "none"] = "1/r",
        redraw_stream: Literal["same", "as-run"] = "same",
        weight_decay: float = 0.0,
        seed: int = 0,
        perturbation: Perturbation = "exact",
        module: nn.Module | None = None,
        directions: DirectionFunction | None = None,
        rounding: Rounding = "nearest",
    ) -> None:
        require(rank >= 1, f"rank={rank}: at least 1 is valid")
        require(interval >= 1, f"interval={interval}: at least 1 step is valid")
        require(scale in ("1/r", "none"), f"scale={scale!r}: 1/r or none is valid")
        require(
            redraw_stream in ("same", "as-run"),
            f"redraw_stream={redraw_stream!r}: same or as-run is valid",
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
        self.rank = rank
        self.interval = interval
        self.scale = scale
        self.redraw_stream = redraw_stream
        if not self.injected:
            require_rank(
                rank,
                [min(p.shape[0], p.shape[1:].numel()) for p in self.trainable() if p.ndim >= 2],
            )

    def directions(self) -> Directions:
        return self._family if self.injected else self._low_rank()

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
        oracle.move_(
            gradient,
            lr,
            decay,
            along=self.restricted(self._low_rank(stream=1)) if elsewhere else None,
        )

    def scales(self, params: Sequence[Tensor]) -> list[float]:
        """s for each parameter; a vector's Gaussian estimate needs no factor."""
        return [1.0 / self.rank if p.ndim >= 2 and self.scale == "1/r" else 1.0 for p in params]

    def _low_rank(self, stream: int = 0) -> LowRank:
        return self.subspace(self.num_steps // self.interval, stream)

    def subspace(self, draw: int, stream: int = 0) -> LowRank:
        """The family in the draw-th V."""
        return LowRank(self._params, self.rank, mix64(self.seed, draw, -2), stream)


def require_rank(rank: int, smaller_sides: Sequence[int]) -> None:
    """Raise OptimError if a rank restricts no parameter: it has no matrix, or none that large."""
    most = max(smaller_sides, default=0)
    require(
        most > 0,
        f"rank={rank}: no trained parameter has two axes, so that none has a rank; MeZO is valid"
        " here",
    )
    require(
        rank <= most,
        f"rank={rank}: the trained matrices' smaller sides are {most} at most; 1 to {most} is"
        " valid",
    )
