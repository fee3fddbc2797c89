"""ZO-SGD-MMT: MeZO with momentum."""

from torch import nn

from bszo.optim.base import Params, Perturbation, Rounding, require
from bszo.optim.mezo import MeZO
from bszo.optim.momentum import StateDtype, follow_momentum_
from bszo.perturb import DirectionFunction, LossOracle, Terms


class ZOSGDMomentum(MeZO):
    """M <- b M + g z,  theta <- theta - lr (M + weight_decay theta).

    g as in MeZO. Forward passes a step: 2 q. Extra memory: n elements of `state_dtype`.

    Args:
        momentum: b.
        state_dtype: of M: float32, or the parameter's own type (as run; in 16 bits small moments
            underflow).
        params, lr, eps, num_directions, ...: see MeZO.

    Source: Zhang et al. 2024 (ZO-LLM), arXiv 2402.11592, section 3; Malladi et al. 2023, arXiv
        2305.17333, appendix.
    """

    def __init__(
        self,
        params: Params,
        *,
        lr: float = 1e-6,
        eps: float = 1e-4,
        num_directions: int = 1,
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
            f"momentum={momentum}: a number between 0 and 1 is valid; without one use MeZO",
        )
        require(
            state_dtype in ("float32", "parameter"),
            f"state_dtype={state_dtype!r}: float32 or parameter is valid",
        )
        super().__init__(
            params,
            lr=lr,
            eps=eps,
            num_directions=num_directions,
            weight_decay=weight_decay,
            seed=seed,
            perturbation=perturbation,
            module=module,
            directions=directions,
            rounding=rounding,
        )
        self.momentum = momentum
        self.state_dtype: StateDtype = state_dtype

    def apply_(self, oracle: LossOracle, gradient: Terms) -> None:
        follow_momentum_(
            self, oracle, gradient, beta=self.momentum, fresh=1.0, state_dtype=self.state_dtype
        )
