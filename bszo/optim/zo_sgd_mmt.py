"""ZO-SGD-MMT: MeZO with momentum."""

from typing import Unpack

from bszo.optim.hyperparameter import Hyperparameter, number, one_of
from bszo.optim.mezo import MeZO
from bszo.optim.momentum import follow_momentum_
from bszo.optim.options import DifferenceOptions, Params, StateDtype
from bszo.perturb import LossOracle, Terms


class ZOSGDMomentum(MeZO):
    """M <- b M + g z,  theta <- theta - lr (M + weight_decay theta).

    g is MeZO's; M starts at zero. Forward passes a step: 2 q. Extra memory: n elements of
    `state_dtype`.

    Args:
        momentum: b; a group may have its own.
        state_dtype: of M: float32, or the parameter's own type (as run; in 16 bits small moments
            underflow).
        params, lr, eps, num_directions, ...: see MeZO.

    Source: Zhang et al. 2024 (ZO-LLM), arXiv 2402.11592, section 3; Malladi et al. 2023, arXiv
        2305.17333, appendix.

    Example:
        >>> import torch
        >>> from bszo import ZOSGDMomentum
        >>> theta = torch.nn.Parameter(torch.ones(6))
        >>> optimizer = ZOSGDMomentum([theta], lr=3e-3, eps=1e-3, momentum=0.9)
        >>> losses = [optimizer.step(lambda: theta.square().sum()) for _ in range(100)]
        >>> losses[-1] < losses[0], list(optimizer.state[theta])
        (True, ['momentum'])
    """

    momentum = Hyperparameter[float](
        number,
        lambda b: 0 < b < 1,
        "a number between 0 and 1 is valid; without one use MeZO",
        scope="group",
    )
    state_dtype: Hyperparameter[StateDtype] = Hyperparameter(
        one_of(StateDtype), scope="construction"
    )

    def __init__(
        self,
        params: Params,
        *,
        lr: float = 1e-6,
        num_directions: int = 1,
        momentum: float = 0.9,
        state_dtype: StateDtype = "float32",
        **options: Unpack[DifferenceOptions],
    ) -> None:
        self.momentum, self.state_dtype = momentum, state_dtype
        super().__init__(params, lr=lr, num_directions=num_directions, **options)

    def apply_(self, oracle: LossOracle, gradient: Terms) -> None:
        follow_momentum_(self, oracle, gradient, mean=False, state_dtype=self.state_dtype)
