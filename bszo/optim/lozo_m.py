"""LOZO-M: LOZO with a momentum that is as small as its directions."""

from typing import Literal, Unpack

from bszo.optim.hyperparameter import Hyperparameter, number, one_of
from bszo.optim.lozo import LOZO, Scale
from bszo.optim.momentum import follow_momentum_
from bszo.optim.options import DifferenceOptions, Params, StateDtype
from bszo.perturb import LossOracle, Terms

Start = Literal["zero", "first"]


class LOZOM(LOZO):
    """M <- b M + (1 - b) g U,  theta <- theta - lr (s M V^T + weight_decay theta).

    g, U, V and s are LOZO's; M is (rows, r). Where V is redrawn, M first becomes
    M V_old^T V / columns, which is what it was in the new V on average. A vector has M <- b M +
    (1 - b) g z in its own shape. Forward passes a step: 2. Extra memory: r rows elements of
    `state_dtype` a matrix, and as many as it has for a vector.

    Args:
        momentum: b; a group may have its own.
        start: M before the first step is "zero", so that the first M is (1 - b) g U; or the first
            M is g U whole ("first", as run).
        state_dtype: of M: float32, or the parameter's own type (as run).
        params, lr, eps, rank, interval, scale, ...: see LOZO.

    Source: Chen et al. 2024, arXiv 2410.07698, section 5 (LOZO-M).

    Example:
        >>> import torch
        >>> from bszo import LOZOM
        >>> theta = torch.nn.Parameter(torch.ones(6, 5))
        >>> optimizer = LOZOM([theta], lr=0.01, eps=1e-3, rank=2, momentum=0.8)
        >>> losses = [optimizer.step(lambda: theta.square().sum()) for _ in range(50)]
        >>> losses[-1] < losses[0], optimizer.state[theta]["momentum"].shape
        (True, torch.Size([6, 2]))
    """

    redraw_stream: Hyperparameter[Literal["same", "as-run"]] = Hyperparameter(
        one_of(Literal["same"])
    )
    momentum = Hyperparameter[float](
        number,
        lambda b: 0 < b < 1,
        "a number between 0 and 1 is valid; without one use LOZO",
        scope="group",
    )
    start: Hyperparameter[Start] = Hyperparameter(
        one_of(Start), scope="construction", unsaid="zero"
    )
    state_dtype: Hyperparameter[StateDtype] = Hyperparameter(
        one_of(StateDtype), scope="construction"
    )

    def __init__(
        self,
        params: Params,
        *,
        lr: float = 1e-6,
        rank: int = 2,
        interval: int = 50,
        scale: Scale = "1/r",
        momentum: float = 0.9,
        start: Start = "zero",
        state_dtype: StateDtype = "float32",
        **options: Unpack[DifferenceOptions],
    ) -> None:
        self.momentum, self.start, self.state_dtype = momentum, start, state_dtype
        super().__init__(params, lr=lr, rank=rank, interval=interval, scale=scale, **options)

    def apply_(self, oracle: LossOracle, gradient: Terms) -> None:
        follow_momentum_(
            self,
            oracle,
            gradient,
            mean=True,
            whole_first=self.start == "first",
            state_dtype=self.state_dtype,
            scales=self.scales(oracle.params),
            draw=None if self.injected else self.draw,
            subspace=self.subspace,
        )
