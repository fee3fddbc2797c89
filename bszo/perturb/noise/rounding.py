"""The one rounding of a move: sums in fp32 or fp64, brought into the parameter's type."""

import torch
from torch import Tensor

from bszo.perturb import compiled
from bszo.perturb.noise.seeds import key
from bszo.perturb.noise.spec import hashed, rounded_to_bf16


def add(
    theta: Tensor,
    step: Tensor,
    parameter: int,
    *,
    out: Tensor,
    decay: float = 1.0,
    rounding_seed: int | None = None,
    first: int = 0,
    fused: bool = False,
) -> Tensor:
    """Return decay theta + step for a step in fp32 or fp64, summed in its type and rounded once, as
    `noise.shift` does.

    Args:
        theta, parameter, decay, rounding_seed: see `noise.shift`.
        step: of theta's shape.
        out: where the result goes; it may be theta itself.
        first: the number of theta's first element, where it is a part of the parameter.
        fused: on a CPU, takes one compiled pass; the numbers are the same but for the last ulp.

    Raises:
        ValueError: rounding_seed with a result that is not bf16.
    """
    check_rounding(rounding_seed, out.dtype)
    if (
        fused
        and theta.dtype == out.dtype
        and step.dtype == torch.float32
        and compiled.serves(out, theta, step)
    ):
        round_key = None if rounding_seed is None else key(rounding_seed, parameter)
        compiled.shift(out, theta, [], [], decay=decay, step=step, first=first, round_key=round_key)
        return out
    if decay != 1.0:  # theta comes last: see `noise.shift`
        step = torch.add(step, theta, alpha=decay - 1.0)
    if rounding_seed is None:
        return torch.add(step, theta, out=out)
    acc = torch.add(step, theta)
    return round_to(acc, parameter, rounding_seed, out, first=first)


def round_to(
    acc: Tensor, parameter: int, rounding_seed: int | None, out: Tensor, *, first: int = 0
) -> Tensor:
    """Round acc, fp32 or fp64, into `out`: to nearest, or stochastically as `noise.shift` does.

    Where acc is a part of the parameter, `first` is the number of its first element.
    """
    check_rounding(rounding_seed, out.dtype)
    if rounding_seed is None:
        return out.copy_(acc)
    counter = torch.arange(first, first + acc.numel(), dtype=torch.int32, device=acc.device).view(
        acc.shape
    )
    return out.copy_(rounded_to_bf16(acc, hashed(counter, *key(rounding_seed, parameter))))


def check_rounding(rounding_seed: int | None, dtype: torch.dtype) -> None:
    """ValueError for stochastic rounding to another type than bf16."""
    if rounding_seed is not None and dtype != torch.bfloat16:
        raise ValueError(f"stochastic rounding is for bfloat16 parameters, not {dtype}")
