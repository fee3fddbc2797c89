"""LOZO-M: LOZO with a momentum that is as small as its directions."""

from typing import Literal

from torch import nn

from bszo.optim.base import Params, Perturbation, Rounding, require
from bszo.optim.lozo import LOZO
from bszo.optim.momentum import StateDtype, follow_momentum_
from bszo.perturb import DirectionFunction, LossOracle, Terms


class LOZOM(LOZO):
    """M <- b M + (1 - b) g U,  theta <- theta - lr (s M V^T + weight_decay theta).

    g, U, V, s as in LOZO; M (rows, r). Where V is redrawn, M first becomes M V_old^T V / columns,
    which is what it was in the new V on average. A vector has M <- b M + (1 - b) g z in its own
    shape. Forward passes a step: 2. Extra
    memory: r rows elements of `state_dtype` a matrix, and the vectors'.

    Args:
        momentum: b.
        state_dtype: of M: float32, or the parameter's own type (as run).
        params, lr, eps, rank, interval, scale, ...: see LOZO.

    Source: Chen et al. 2024, arXiv 2410.07698, section 5 (LOZO-M).
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
        momentum: float = 0.9,
        state_dtype: StateDtype = "float32",
        weight_decay: float = 0.0,
        seed: int = 0,
        perturbation: Perturbation = "exact",
        module: nn.Module | None = None,
        directions: DirectionFunction | None = None,
        rounding: Rounding = "nearest",
    ) -> None:
        require(
            0 < momentum < 1,
            f"momentum={momentum}: a number between 0 and 1 is valid; without one use LOZO",
        )
        require(
            state_dtype in ("float32", "parameter"),
            f"state_dtype={state_dtype!r}: float32 or parameter is valid",
        )
        super().__init__(
            params,
            lr=lr,
            eps=eps,
            rank=rank,
            interval=interval,
            scale=scale,
            weight_decay=weight_decay,
            seed=seed,
            perturbation=perturbation,
            module=module,
            directions=directions,
            rounding=rounding,
        )
        self.momentum = momentum
        self.state_dtype: StateDtype = state_dtype
        self._draw = 0  # the V that M is kept in

    def apply_(self, oracle: LossOracle, gradient: Terms) -> None:
        draw = self.num_steps // self.interval
        moved = draw != self._draw and not self.injected
        follow_momentum_(
            self,
            oracle,
            gradient,
            beta=self.momentum,
            fresh=1 - self.momentum,
            state_dtype=self.state_dtype,
            scales=self.scales(oracle.params),
            previous=self.subspace(self._draw) if moved else None,
        )
        self._draw = draw

    def scalar_state(self) -> dict[str, float]:
        return {"_draw": self._draw}
