"""Drift: how far weights have moved from where they stood, when no step was to move them."""

import math
from collections.abc import Iterable

from torch import Tensor


def drift(now: Iterable[Tensor], before: Iterable[Tensor]) -> float:
    """|theta - theta_0| / |theta_0| over all tensors, summed in float64.

    It is 0 where nothing moved, also from zero, and infinite where weights that were all zero have
    moved.
    """
    moved = length = 0.0
    for tensor, start in zip(now, before, strict=True):
        there = start.double()
        moved += float((tensor.detach().double() - there).square().sum())
        length += float(there.square().sum())
    if length == 0:
        return math.inf if moved else 0.0
    return math.sqrt(moved / length)


def changed(now: Iterable[Tensor], before: Iterable[Tensor]) -> float:
    """The share of elements that have another value than they had, from 0 to 1."""
    others = count = 0
    for tensor, start in zip(now, before, strict=True):
        others += int((tensor.detach() != start).sum())
        count += start.numel()
    return others / count
