"""Momentum on a zeroth-order estimate, kept in the coordinates of the directions' basis where they
have one."""

from collections.abc import Callable, Sequence

import torch

from bszo.optim.base import ZerothOrderOptimizer
from bszo.optim.options import StateDtype, dtype_of_state
from bszo.perturb import Directions, LossOracle, Terms


def has_momentum(optimizer: ZerothOrderOptimizer) -> bool:
    """Whether a group has a momentum, or a parameter an M from when it had one."""
    return any(group["momentum"] for group in optimizer.param_groups) or any(
        "momentum" in state for state in optimizer.state.values()
    )


@torch.no_grad()
def follow_momentum_(
    optimizer: ZerothOrderOptimizer,
    oracle: LossOracle,
    gradient: Terms,
    *,
    mean: bool,
    whole_first: bool = False,
    state_dtype: StateDtype,
    scales: Sequence[float] | None = None,
    draw: int | None = None,
    subspace: Callable[[int], Directions] | None = None,
    moved: Sequence[float] | None = None,
) -> None:
    """M <- b M + w sum_i g_i c_i,  theta <- theta - lr (s z(M) + weight_decay theta).

    c_i are the coordinates of z_i in the oracle's family, z(M) is the tensor that has the
    coordinates M, and b is the group's momentum. Each M is kept with the number of its basis. So
    the M of a parameter that was frozen while the basis was redrawn, once or more often, is carried
    over from the right one.

    Args:
        optimizer: keeps M, in its state, as "momentum", and its basis as "draw".
        gradient: {seed: g}.
        mean: w is 1 - b, so that M is a mean; otherwise w is 1 (heavy ball).
        whole_first: the first M of a parameter is its estimate with w = 1, whatever `mean` says.
        state_dtype: of M.
        scales: s for each parameter; None is 1.
        draw: the number of the basis that the oracle's family is in; None where it has none.
        subspace: (draw) -> the family in the basis of that number.
        moved: for a family that has no coordinates beside z itself: not 0 for each parameter that
            its directions ever move. The others keep no M, and only decay.
    """
    oracle.home()
    family = oracle.directions
    bases: dict[int, Directions] = {}
    for i, p, group in optimizer.with_groups():
        decay = 1 - group["lr"] * group["weight_decay"]
        if moved is not None and not moved[i]:
            oracle.decay_(i, decay)
            continue
        summed = oracle.coordinates if moved is None else oracle.dense
        estimate = summed(i, gradient)
        state, beta = optimizer.state[p], group["momentum"]
        begun = "momentum" in state
        weight = 1 - beta if mean and (begun or not whole_first) else 1.0
        if not begun:
            dtype = dtype_of_state(p, state_dtype)
            state["momentum"] = torch.zeros_like(estimate, dtype=dtype)
        elif draw is not None and subspace is not None and state["draw"] != draw:
            old = state["draw"]
            bases[old] = bases[old] if old in bases else subspace(old)
            carried = family.carry(state["momentum"].to(estimate.dtype), i, bases[old])
            state["momentum"].copy_(carried)
        if draw is not None:
            state["draw"] = draw
        m = state["momentum"].mul_(beta)
        m.add_(estimate.to(m.dtype), alpha=weight)
        s = 1.0 if scales is None else scales[i]
        delta = (
            -group["lr"] * s * family.expand(m.to(torch.promote_types(m.dtype, torch.float32)), i)
        )
        oracle.add_(i, delta, decay=decay)
