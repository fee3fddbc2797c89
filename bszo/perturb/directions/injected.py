"""Directions from a rule of the caller's own."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from bszo.perturb.directions.base import Directions


class DirectionFunction(Protocol):
    """Any rule from a seed to one tensor a parameter, deterministic in the seed."""

    def __call__(self, params: Sequence[Tensor], seed: int, /) -> Sequence[Tensor]: ...


class Injected(Directions):
    """z from any rule (params, seed) -> one tensor a parameter; it is called once a seed and
    step."""

    def __init__(self, params: Sequence[Tensor], function: DirectionFunction) -> None:
        super().__init__(params)
        self.function = function

    def make(self, seed: int) -> Sequence[Tensor]:
        z = self.function(self.params, seed)
        shapes, wanted = [tuple(t.shape) for t in z], [tuple(p.shape) for p in self.params]
        if shapes != wanted:
            raise ValueError(
                f"directions= returned tensors of shapes {shapes}, the parameters have {wanted}"
            )
        return z
