"""Injected: directions from a rule of the caller's own."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from bszo.perturb.directions.base import Directions


class DirectionFunction(Protocol):
    """Any rule from a seed to one tensor a parameter; the same seed must give the same tensors."""

    def __call__(self, params: Sequence[Tensor], seed: int, /) -> Sequence[Tensor]: ...


class Injected(Directions):
    """z from any rule (params, seed) -> one tensor a parameter. The rule is called once for a seed
    in a step.

    Raises:
        ValueError: from a call, where the rule returned other shapes than the parameters have.
    """

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
