"""SubZero: MeZO inside a two-sided subspace of each matrix."""

from typing import Literal, Unpack

from bszo.optim.hyperparameter import Hyperparameter, flag, number, one_of
from bszo.optim.momentum import follow_momentum_, has_momentum
from bszo.optim.options import DifferenceOptions, Params, StateDtype
from bszo.optim.redrawn import Redrawn
from bszo.perturb import Directions, LossOracle, Subspace, Terms, mix64

Scale = Literal["sqrt(mn)/r", "none"]


class SubZero(Redrawn):
    """theta <- theta - lr (g P + weight_decay theta),  P = s U Z V,
    g = (L(theta + eps P) - L(theta - eps P)) / (2 eps).

    U (m, r) and V (r, n), with orthonormal columns and rows, are redrawn every `interval` steps, Z
    (r, r) is Gaussian and new at each; vectors have Gaussian directions. With momentum b: M <- b M
    + g Z, theta <- theta - lr (s U M V + weight_decay theta); where U and V are redrawn M first
    becomes its projection, (U^T U_old) M (V_old V^T). Forward passes a step: 2. Extra memory: U and
    V, r (m + n) fp32 elements a matrix; with momentum also r^2, and as many as it has for a vector.

    Args:
        rank: r, clipped to each matrix's smaller side.
        interval: steps between redraws of U and V.
        scale: s, "sqrt(mn)/r" (as run: E|P|^2 is a Gaussian's, and the estimate unbiased over
            redraws) or "none" (1, as printed).
        square: take a matrix with a side of at most `rank`, such as an adapter's, in its most
            square shape.
        momentum: b; a group may have its own. Where all have 0, nothing is kept.
        state_dtype: of M: float32, or the parameter's own type.
        params, lr, eps, weight_decay, seed, perturbation, module, directions, rounding: see
            ZerothOrderOptimizer.

    Raises:
        OptimError: no parameter is a matrix.

    Source: Yu et al. 2024, arXiv 2410.08989, Algorithms 1 to 3.

    Example:
        >>> import torch
        >>> from bszo import SubZero
        >>> theta = torch.nn.Parameter(torch.ones(6, 5))
        >>> optimizer = SubZero([theta], lr=0.01, eps=1e-3, rank=3, interval=10)
        >>> losses = [optimizer.step(lambda: theta.square().sum()) for _ in range(50)]
        >>> losses[-1] < losses[0]
        True
    """

    scale: Hyperparameter[Scale] = Hyperparameter(one_of(Scale))
    square = Hyperparameter[bool](flag)
    momentum = Hyperparameter[float](
        number, lambda b: 0 <= b < 1, "a number in [0, 1) is valid", scope="group"
    )
    state_dtype: Hyperparameter[StateDtype] = Hyperparameter(
        one_of(StateDtype), scope="construction"
    )

    def __init__(
        self,
        params: Params,
        *,
        lr: float = 1e-6,
        rank: int = 24,
        interval: int = 1000,
        scale: Scale = "sqrt(mn)/r",
        square: bool = True,
        momentum: float = 0.0,
        state_dtype: StateDtype = "float32",
        **options: Unpack[DifferenceOptions],
    ) -> None:
        self.scale, self.square = scale, square
        self.momentum, self.state_dtype = momentum, state_dtype
        super().__init__(params, lr=lr, rank=rank, interval=interval, **options)

    def apply_(self, oracle: LossOracle, gradient: Terms) -> None:
        if not has_momentum(self):
            return super().apply_(oracle, gradient)
        follow_momentum_(
            self,
            oracle,
            gradient,
            mean=False,
            state_dtype=self.state_dtype,
            draw=None if self.injected else self.draw,
            subspace=self.subspace,
        )

    def subspace(self, draw: int) -> Directions:
        """The family in the draw-th U and V."""
        rank, basis_seed = self.rank, mix64(self.seed, draw, -2)
        scaled, square = self.scale != "none", self.square
        return self.numbered(
            lambda params: Subspace(params, rank, basis_seed, scaled=scaled, square=square)
        )
