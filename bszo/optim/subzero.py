"""SubZero: MeZO inside a two-sided subspace of each matrix."""

from typing import Any, Literal

from torch import nn

from bszo.optim.base import Params, Perturbation, Rounding, require
from bszo.optim.lozo import require_rank
from bszo.optim.mezo import MeZO
from bszo.optim.momentum import StateDtype, follow_momentum_
from bszo.perturb import DirectionFunction, Directions, LossOracle, Subspace, Terms, mix64


class SubZero(MeZO):
    """theta <- theta - lr (g P + weight_decay theta),  P = s U Z V,
    g = (L(theta + eps P) - L(theta - eps P)) / (2 eps).

    U (m, r) and V (r, n), with orthonormal columns and rows, are redrawn every `interval` steps, Z
    (r, r) is Gaussian and new at each; vectors have Gaussian directions. With momentum b: M <- b M
    + g Z, theta <- theta - lr (s U M V + weight_decay theta); where U and V are redrawn M first
    becomes its projection, (U^T U_old) M (V_old V^T). Forward passes a step: 2. Extra memory: U and
    V, r (m + n) fp32 elements a matrix; with momentum also r^2, and the vectors' own.

    Args:
        rank: r, clipped to each matrix's smaller side.
        interval: steps between redraws of U and V.
        scale: s, "sqrt(mn)/r" (as run: E|P|^2 is a Gaussian's, and the estimate unbiased over
            redraws) or "none" (1, as printed).
        square: take a matrix with a side of at most `rank`, such as an adapter's, in its most
            square shape.
        momentum: b; 0 keeps nothing.
        state_dtype: of M: float32, or the parameter's own type.
        params, lr, eps, weight_decay, seed, perturbation, module, directions, rounding: see
            ZerothOrderOptimizer.

    Source: Yu et al. 2024, arXiv 2410.08989, Algorithms 1 to 3.
    """

    def __init__(
        self,
        params: Params,
        *,
        lr: float = 1e-6,
        eps: float = 1e-4,
        rank: int = 24,
        interval: int = 1000,
        scale: Literal["sqrt(mn)/r", "none"] = "sqrt(mn)/r",
        square: bool = True,
        momentum: float = 0.0,
        state_dtype: StateDtype = "float32",
        weight_decay: float = 0.0,
        seed: int = 0,
        perturbation: Perturbation = "exact",
        module: nn.Module | None = None,
        directions: DirectionFunction | None = None,
        rounding: Rounding = "nearest",
    ) -> None:
        require(rank >= 1, f"rank={rank}: at least 1 is valid")
        require(interval >= 1, f"interval={interval}: at least 1 step is valid")
        require(scale in ("sqrt(mn)/r", "none"), f"scale={scale!r}: sqrt(mn)/r or none is valid")
        require(0 <= momentum < 1, f"momentum={momentum}: a number in [0, 1) is valid")
        require(
            state_dtype in ("float32", "parameter"),
            f"state_dtype={state_dtype!r}: float32 or parameter is valid",
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
        self.rank, self.interval, self.scale, self.square = rank, interval, scale, square
        self.momentum = momentum
        self.state_dtype: StateDtype = state_dtype
        self._draw = 0  # the U and V that M is kept in
        self._current: tuple[Any, Subspace] | None = None
        if not self.injected:
            require_rank(1, [p.numel() for p in self.trainable() if p.ndim >= 2])

    def directions(self) -> Directions:
        if self.injected:
            return self._family
        draw = self.num_steps // self.interval
        key = (self._bound, self.seed, draw)
        if self._current is None or self._current[0] != key:
            self._current = key, self.subspace(draw)
        return self._current[1]

    def apply_(self, oracle: LossOracle, gradient: Terms) -> None:
        if not self.momentum:
            return super().apply_(oracle, gradient)
        draw = self.num_steps // self.interval
        moved = draw != self._draw and not self.injected
        follow_momentum_(
            self,
            oracle,
            gradient,
            beta=self.momentum,
            fresh=1.0,
            state_dtype=self.state_dtype,
            previous=self.subspace(self._draw) if moved else None,
        )
        self._draw = draw

    def subspace(self, draw: int) -> Subspace:
        """The family in the draw-th U and V."""
        return Subspace(
            self._params,
            self.rank,
            mix64(self.seed, draw, -2),
            scaled=self.scale != "none",
            square=self.square,
        )

    def scalar_state(self) -> dict[str, float]:
        return {"_draw": self._draw} if self.momentum else {}
