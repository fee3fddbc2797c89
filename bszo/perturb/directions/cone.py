"""Cone: directions about a momentum, at a fixed angle to it (ConMeZO)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bszo.perturb.directions.base import Directions
from bszo.perturb.directions.wrapped import Wrapped


class Cone(Wrapped):
    """z' = cos(t) sqrt(n) m / |m| + sin(t) z, as long as a Gaussian z of n elements is.

    Where m is zero, z' is z. The optimizer keeps m. Its norm is taken when the family is built, for
    a step; a wrapper that masks or blocks z' does so to both parts of it.

    Args:
        base: the family that draws z.
        momentum: m, one tensor a parameter, in its shape.
        angle: t, between z' and m; a right angle leaves z alone.
    """

    def __init__(self, base: Directions, momentum: Sequence[Tensor], angle: float) -> None:
        super().__init__(base)
        self.momentum = momentum
        norm = math.sqrt(sum(float(m.double().square().sum()) for m in momentum))
        size = math.sqrt(sum(m.numel() for m in momentum))
        self.along = math.cos(angle) * size / norm if norm else 0.0
        self.across = math.sin(angle) if norm else 1.0

    def changed(self, z: Tensor, index: int) -> Tensor:
        m = self.momentum[index]
        return self.across * z + self.along * m.to(torch.promote_types(m.dtype, torch.float32))
