"""SubZero+: many one-sided probes inside SubZero's subspace, and Adam on their mean there."""

from typing import Unpack

import torch

from bszo.optim.hyperparameter import Hyperparameter, flag, is_rate, number, one_of
from bszo.optim.mezo_adam import Betas, learn_and_change, pair
from bszo.optim.one_sided import probe
from bszo.optim.options import (
    OwnLengthOptions,
    Params,
    StateDtype,
    dtype_of_state,
    say_short_moments,
)
from bszo.optim.redrawn import Redrawn
from bszo.optim.report import StepReport
from bszo.optim.subzero import Scale
from bszo.perturb import Directions, LossOracle, Subspace, Terms, mix64


class SubZeroPlus(Redrawn):
    """theta <- theta - lr (s U A V + weight_decay theta),  A = m_hat / (sqrt(v_hat) + adam_eps),
    m <- b1 m + (1 - b1) Z,  v <- b2 v + (1 - b2) Z^2,  Z = 1/K sum_k y_k Z_k,
    y_k = (L(theta + eps s U Z_k V) - L(theta)) / eps.

    U (m, r) and V (r, n), with orthonormal columns and rows, uniform over all such, are redrawn
    every `interval` steps; Z_k (r, r) is Gaussian and new at each. The moments stay as they are
    where U and V are redrawn, as printed: they are those of other coordinates then. m_hat and v_hat
    are corrected for the number of gradients that the parameter has had. Vectors have Gaussian
    directions and Adam in their own shape. Forward passes a step: K + 1. Extra memory: U and V,
    r (m + n) fp32 elements a matrix, and 2 r^2, or twice a vector; while it moves one tensor of the
    matrix's size.

    Args:
        num_directions: K.
        rank: r, clipped to each matrix's smaller side.
        interval: steps between redraws of U and V.
        scale: s, "none" (1, as printed) or "sqrt(mn)/r" (SubZero's, with which a perturbation is as
            long as a Gaussian).
        square: see SubZero.
        betas: b1, b2; a group may have its own.
        adam_eps: added to the root; a group may have its own.
        state_dtype: of the moments: float32, or the parameter's own type.
        params, lr, eps, weight_decay, seed, perturbation, module, directions, rounding: see
            ZerothOrderOptimizer.

    Raises:
        OptimError: no parameter is a matrix.

    Source: "SubZero+" 2026, arXiv 2608.15665.

    Example:
        >>> import torch
        >>> from bszo import SubZeroPlus
        >>> theta = torch.nn.Parameter(torch.ones(6, 5))
        >>> optimizer = SubZeroPlus([theta], lr=0.02, num_directions=8, rank=3, interval=10)
        >>> losses = [optimizer.step(lambda: theta.square().sum()) for _ in range(50)]
        >>> losses[-1] < losses[0], optimizer.state[theta]["m"].shape
        (True, torch.Size([3, 3]))
    """

    scale: Hyperparameter[Scale] = Hyperparameter(one_of(Scale))
    square = Hyperparameter[bool](flag)
    betas = Hyperparameter[Betas](
        pair, lambda b: all(0 <= x < 1 for x in b), "two numbers in [0, 1) are valid", scope="group"
    )
    adam_eps = Hyperparameter[float](
        number, lambda eps: eps > 0 and is_rate(eps), "a positive number is valid", scope="group"
    )
    state_dtype: Hyperparameter[StateDtype] = Hyperparameter(
        one_of(StateDtype), scope="construction"
    )

    def __init__(
        self,
        params: Params,
        *,
        lr: float = 5e-3,
        eps: float = 1e-3,
        num_directions: int = 99,
        rank: int = 16,
        interval: int = 50,
        scale: Scale = "none",
        square: bool = True,
        betas: Betas = (0.9, 0.95),
        adam_eps: float = 1e-8,
        state_dtype: StateDtype = "float32",
        **options: Unpack[OwnLengthOptions],
    ) -> None:
        self.scale, self.square, self.state_dtype = scale, square, state_dtype
        self.betas, self.adam_eps = betas, adam_eps
        super().__init__(
            params,
            lr=lr,
            eps=eps,
            num_directions=num_directions,
            rank=rank,
            interval=interval,
            **options,
        )
        say_short_moments(self.trainable(), state_dtype)

    def estimate(self, oracle: LossOracle) -> tuple[Terms, StepReport]:
        return probe(oracle, self.direction_seeds(self.num_directions), self.eps)

    @torch.no_grad()
    def apply_(self, oracle: LossOracle, gradient: Terms) -> None:
        oracle.home()
        for i, p, group in self.with_groups():
            z, state = oracle.coordinates(i, gradient), self.state[p]
            if not state:
                dtype = dtype_of_state(p, self.state_dtype)
                state["m"], state["v"] = (torch.zeros_like(z, dtype=dtype) for _ in range(2))
                state["age"] = 0
            state["age"] += 1
            change = learn_and_change(state["m"], state["v"], z, state["age"], group)
            delta = oracle.directions.expand(change, i)
            oracle.add_(i, delta, decay=1 - group["lr"] * group["weight_decay"])

    def subspace(self, draw: int) -> Directions:
        """The family in the draw-th U and V."""
        rank, basis_seed = self.rank, mix64(self.seed, draw, -2)
        scaled, square = self.scale != "none", self.square
        return self.numbered(
            lambda params: Subspace(
                params, rank, basis_seed, scaled=scaled, square=square, haar=True
            )
        )
