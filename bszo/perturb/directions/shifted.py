"""Shifted: directions about a mean of their own (ZO-LDSD)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bszo.perturb.directions.base import Directions
from bszo.perturb.directions.wrapped import Wrapped


class Shifted(Wrapped):
    """v = mu + s z, of the policy N(mu, s^2 I) where z is Gaussian. The optimizer keeps mu; a call
    takes mu as it stands.

    A wrapper that masks or blocks v masks mu with it.

    Args:
        base: the family that draws z.
        mean: mu, one tensor a parameter, in its shape.
        spread: s.
    """

    def __init__(self, base: Directions, mean: Sequence[Tensor], spread: float) -> None:
        super().__init__(base)
        self.mean, self.spread = mean, spread

    def changed(self, z: Tensor, index: int) -> Tensor:
        mu = self.mean[index]
        return self.spread * z + mu.to(torch.promote_types(mu.dtype, torch.float32))
