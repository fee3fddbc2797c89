"""Momentum on a zeroth-order estimate, kept in the coordinates of the directions' basis where they
have one."""

from collections.abc import Sequence
from typing import Literal

import torch

from bszo.optim.base import ZerothOrderOptimizer
from bszo.perturb import Directions, LossOracle, Terms

StateDtype = Literal["float32", "parameter"]


@torch.no_grad()
def follow_momentum_(
    optimizer: ZerothOrderOptimizer,
    oracle: LossOracle,
    gradient: Terms,
    *,
    beta: float,
    fresh: float,
    state_dtype: StateDtype,
    scales: Sequence[float] | None = None,
    previous: Directions | None = None,
) -> None:
    """M <- beta M + fresh sum_i g_i c_i,  theta <- theta - lr (s z(M) + weight_decay theta).

    c_i are the coordinates of z_i in the oracle's family, z(M) is the tensor that has the
    coordinates M.

    Args:
        optimizer: keeps M, in its state, as "momentum".
        gradient: {seed: g}.
        fresh: weight of the new estimate: 1 for heavy-ball momentum, 1 - beta for a mean.
        state_dtype: of M: float32, or the parameter's own type.
        scales: s for each parameter; None is 1.
        previous: the family that M was kept in, where it is another than the oracle's now.
    """
    oracle.home()
    family = oracle.directions
    rates = zip(
        oracle.params,
        optimizer.per_parameter("lr"),
        optimizer.per_parameter("weight_decay"),
        strict=True,
    )
    for i, (p, lr, weight_decay) in enumerate(rates):
        wide = torch.promote_types(p.dtype, torch.float32)
        estimate = sum(
            g * family.coordinates(seed, i).to(wide) for seed, g in family.own(i, gradient).items()
        )
        assert isinstance(estimate, torch.Tensor)
        state = optimizer.state[p]
        if not state:
            dtype = torch.float32 if state_dtype == "float32" else p.dtype
            state["momentum"] = torch.zeros_like(estimate, dtype=dtype)
        elif previous is not None:
            state["momentum"].copy_(family.carry(state["momentum"].to(estimate.dtype), i, previous))
        m = state["momentum"].mul_(beta).add_(estimate.to(state["momentum"].dtype), alpha=fresh)
        s = 1.0 if scales is None else scales[i]
        delta = -lr * s * family.expand(m.to(torch.promote_types(m.dtype, torch.float32)), i)
        oracle.add_(i, delta, decay=1 - lr * weight_decay)
