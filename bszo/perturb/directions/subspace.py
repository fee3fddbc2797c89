"""Directions inside a two-sided subspace of each matrix, whose basis is kept for a while
(SubZero)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bszo.perturb import noise
from bszo.perturb.directions.base import Directions
from bszo.perturb.directions.factored import Factored, product
from bszo.perturb.noise.seeds import mix64


def matrix_shape(shape: torch.Size, rank: int, square: bool) -> tuple[int, int]:
    """(m, n): further axes fold into n; with `square`, no more than `rank` on a side makes it the
    most square m n."""
    m, n = shape[0], shape[1:].numel()
    if square and 0 < min(m, n) <= rank:
        m = next(d for d in range(math.isqrt(m * n), 0, -1) if m * n % d == 0)
        return m, shape.numel() // m
    return m, n


class Subspace(Factored):
    """P = s U Z V for a matrix; else Gaussian. U (m, r) has orthonormal columns, V (r, n)
    orthonormal rows.

    Z (r, r) is Gaussian, from the seed; U and V are the QR factors of Gaussians in fp32, from the
    basis seed, and are kept (r (m + n) elements a matrix) as long as the family is. r is clipped to
    min(m, n). E|P|^2 = s^2 r^2; with s = sqrt(m n) / r that is m n, as of a Gaussian, and the mean
    of <G, P> P over bases is G.

    Args:
        params: the parameters; a matrix has two axes or more.
        rank: r.
        basis_seed: names U and V.
        scaled: s = sqrt(m n) / r, or 1.
        square: take a matrix with a side of at most `rank` (an adapter's, a prompt's) in its most
            square shape.

    Source: Yu et al. 2024 (SubZero), arXiv 2410.08989.
    """

    def __init__(
        self, params: Sequence[Tensor], rank: int, basis_seed: int, *, scaled: bool, square: bool
    ) -> None:
        super().__init__(params)
        self.rank, self.basis_seed, self.scaled, self.square = rank, basis_seed, scaled, square
        self._bases: dict[int, tuple[Tensor, Tensor]] = {}

    def direction(self, seed: int, index: int) -> Tensor:
        return self.expand(self.coordinates(seed, index), index)

    def coordinates(self, seed: int, index: int) -> Tensor:
        """Z (r, r); a vector's own noise."""
        p = self.params[index]
        shape = p.shape if p.ndim < 2 else torch.Size((self.basis(index)[0].shape[1],) * 2)
        return noise.values(shape, index, seed, device=p.device)

    def expand(self, coordinates: Tensor, index: int) -> Tensor:
        p = self.params[index]
        if p.ndim < 2:
            return coordinates
        u, v = (factor.to(coordinates) for factor in self.basis(index))
        s = math.sqrt(p.numel()) / max(u.shape[1], 1) if self.scaled else 1.0
        return product(s * product(u, coordinates), v).view(p.shape)

    def factors(self, seed: int, index: int) -> tuple[Tensor, Tensor] | None:
        """s U Z and V of a matrix that is taken in its own shape."""
        p = self.params[index]
        if p.ndim != 2 or matrix_shape(p.shape, self.rank, self.square) != tuple(p.shape):
            return None
        z, (u, v) = self.coordinates(seed, index), self.basis(index)
        return (math.sqrt(p.numel()) / max(u.shape[1], 1) if self.scaled else 1.0) * product(
            u, z
        ), v

    def carry(self, coordinates: Tensor, index: int, old: Directions) -> Tensor:
        """(U^T U_old) Z (V_old V^T): the orthogonal projection on the new subspace."""
        if self.params[index].ndim < 2 or not isinstance(old, Subspace):
            return coordinates
        (u_old, v_old), (u, v) = old.basis(index), self.basis(index)
        left, right = product(u.T, u_old).to(coordinates), product(v_old, v.T).to(coordinates)
        return product(product(left, coordinates), right)

    def basis(self, index: int) -> tuple[Tensor, Tensor]:
        """U (m, r) and V (r, n) of a matrix."""
        if index not in self._bases:
            p = self.params[index]
            m, n = matrix_shape(p.shape, self.rank, self.square)
            r = min(self.rank, m, n)
            u, v = (
                torch.linalg.qr(
                    noise.values(
                        torch.Size((side, r)), index, mix64(self.basis_seed, which), device=p.device
                    )
                ).Q
                for which, side in enumerate((m, n))
            )
            self._bases[index] = u, v.T
        return self._bases[index]
