"""Orthonormal columns from a seed: what the bases of subspaces are made of."""

import torch
from torch import Tensor

from bszo.perturb import noise


def orthonormal(
    shape: torch.Size, index: int, seed: int, *, device: torch.device, haar: bool
) -> Tensor:
    """Return Q of a Gaussian's QR factors in fp32: (..., m, r) with r orthonormal columns, r <= m.

    With `haar` each column has the sign of R's diagonal. Only then is Q uniform over all such
    matrices (the Haar measure): Householder's algorithm leaves signs that are not random.
    """
    q, r = torch.linalg.qr(noise.values(shape, index, seed, device=device))
    if not haar:
        return q
    return q * torch.where(r.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).unsqueeze(-2)
