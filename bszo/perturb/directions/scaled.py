"""Scaled: directions divided by the root of a curvature (HiZOO)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bszo.perturb.directions.base import Directions
from bszo.perturb.directions.gaussian import Gaussian
from bszo.perturb.directions.wrapped import Wrapped
from bszo.perturb.noise import Terms


class Scaled(Wrapped):
    """z / sqrt(H), element by element. The optimizer keeps H (HiZOO); a call takes H as it stands.

    Args:
        base: the family that draws z.
        curvature: H, one tensor a parameter, in its shape.
    """

    def __init__(self, base: Directions, curvature: Sequence[Tensor]) -> None:
        super().__init__(base)
        self.curvature = curvature

    def changed(self, z: Tensor, index: int) -> Tensor:
        h = self.curvature[index]
        return z * h.to(torch.promote_types(h.dtype, torch.float32)).rsqrt()

    def shift(
        self,
        theta: Tensor,
        index: int,
        terms: Terms,
        *,
        decay: float = 1.0,
        out: Tensor | None = None,
        rounding_seed: int | None = None,
    ) -> Tensor:
        if isinstance(self.base, Gaussian) and not self.base.small:
            return self.base.shift(
                theta,
                index,
                terms,
                decay=decay,
                out=out,
                rounding_seed=rounding_seed,
                curvature=self.curvature[index],
            )
        return super().shift(theta, index, terms, decay=decay, out=out, rounding_seed=rounding_seed)

    def shift_rows(self, theta: Tensor, index: int, rows: Tensor, terms: Terms) -> Tensor:
        if isinstance(self.base, Gaussian) and not self.base.small:
            return self.base.shift_rows(
                theta, index, rows, terms, curvature=self.curvature[index][rows]
            )
        return super().shift_rows(theta, index, rows, terms)
