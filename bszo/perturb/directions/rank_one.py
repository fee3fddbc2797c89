"""RankOne: directions whose covariance is the inverse of a rank-one curvature (LOREN)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bszo.perturb.directions.base import Directions
from bszo.perturb.directions.factored import product
from bszo.perturb.directions.wrapped import Wrapped


class RankOne(Wrapped):
    """S z = z - (sqrt(rho) + sqrt(rho + s)) / (s sqrt(rho + s)) <A, z> A,  s = |A|^2.

    A has the row a in each of a matrix's m rows, so that s = m |a|^2; a vector is a matrix of one
    row, and further axes fold into the columns. S S^T = rho (rho I + A A^T)^-1: z is shortened to
    sqrt(rho / (rho + s)) of its length along A and left as it is across it. The optimizer keeps a;
    a call takes a as it stands.

    Args:
        base: the family that draws z.
        curvature: a, one tensor a parameter, with as many elements as a row has.
        damping: rho.

    Source: Seung et al. 2025 (LOREN), arXiv 2511.07971; of the two roots, this is the one with
        a negative eigenvalue along A, as in the authors' code.
    """

    def __init__(self, base: Directions, curvature: Sequence[Tensor], damping: float) -> None:
        super().__init__(base)
        self.curvature, self.damping = curvature, damping

    def changed(self, z: Tensor, index: int) -> Tensor:
        if not z.numel():
            return z
        a = self.curvature[index].reshape(-1)
        wide = torch.promote_types(z.dtype, a.dtype)
        a, rows = a.to(wide), as_rows(z).to(wide)  # (n,), (m, n)
        rho, s = self.damping, rows.shape[0] * float(product(a, a))
        if s == 0:
            return z
        taken = (math.sqrt(rho) + math.sqrt(rho + s)) / (s * math.sqrt(rho + s))
        return (rows - taken * product(a, rows.sum(0)) * a).view(z.shape)


def as_rows(tensor: Tensor) -> Tensor:
    """Return a matrix with its further axes folded into the columns; a vector as one row."""
    return tensor.reshape(tensor.shape[0] if tensor.ndim > 1 else 1, -1)
