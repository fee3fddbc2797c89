"""Subspace, the family of SubZero: directions inside a two-sided subspace of each matrix, whose
basis is kept for a while."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bszo.perturb.directions.base import Directions
from bszo.perturb.directions.factored import Factored, is_stack, product
from bszo.perturb.directions.orthonormal import orthonormal
from bszo.perturb.noise.seeds import mix64


def matrix_shape(shape: torch.Size, rank: int, square: bool) -> tuple[int, int]:
    """Return (m, n) of a matrix, whose further axes fold into n. With `square`, one with a side of
    at most `rank` is taken in its most square shape."""
    m, n = shape[0], shape[1:].numel()
    if square and 0 < min(m, n) <= rank:
        m = next(d for d in range(math.isqrt(m * n), 0, -1) if m * n % d == 0)
        return m, shape.numel() // m
    return m, n


class Subspace(Factored):
    """P = s U Z V for a matrix; a vector's direction is Gaussian. U (m, r) has orthonormal columns
    and V (r, n) orthonormal rows.

    Z (r, r) is Gaussian, from the seed; U and V are the QR factors of Gaussians in fp32, from the
    basis seed, and are kept (r (m + n) elements a matrix) as long as the family is. r is clipped to
    min(m, n). E|P|^2 = s^2 r^2; with s = sqrt(m n) / r that is m n, as of a Gaussian, and the mean
    of <G, P> P over bases is G.

    Args:
        params: the parameters. A matrix has two axes or more; one with three axes may be a stack of
            matrices with a basis each (`factored.is_stack`).
        rank: r.
        basis_seed: names U and V.
        scaled: s = sqrt(m n) / r, or 1.
        square: take a matrix with a side of at most `rank` (an adapter's, a prompt's) in its most
            square shape.
        haar: U and V are uniform over their kind (`orthonormal`); else QR's signs stay (as run).

    Source: Yu et al. 2024 (SubZero), arXiv 2410.08989.
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        rank: int,
        basis_seed: int,
        *,
        scaled: bool,
        square: bool,
        haar: bool = False,
    ) -> None:
        super().__init__(params)
        self.rank, self.basis_seed, self.scaled, self.square = rank, basis_seed, scaled, square
        self.haar = haar
        self._bases: dict[int, tuple[Tensor, Tensor]] = {}

    def direction(self, seed: int, index: int) -> Tensor:
        return self.expand(self.coordinates(seed, index), index)

    def coordinates(self, seed: int, index: int) -> Tensor:
        """Return Z (r, r), or (experts, r, r) of a stack; a vector's own noise."""
        p = self.params[index]
        if p.ndim < 2:
            shape = p.shape
        else:
            *experts, _, r = self.basis(index)[0].shape
            shape = torch.Size((*experts, r, r))
        return self.values(shape, index, seed)

    def expand(self, coordinates: Tensor, index: int) -> Tensor:
        p = self.params[index]
        if p.ndim < 2:
            return coordinates
        u, v = (factor.to(coordinates) for factor in self.basis(index))
        return product(self.scale(u, v) * product(u, coordinates), v).view(p.shape)

    def has_factors(self, index: int) -> bool:
        p = self.params[index]
        return is_stack(p.shape, self.rank) or (
            p.ndim == 2 and matrix_shape(p.shape, self.rank, self.square) == tuple(p.shape)
        )

    def factors(self, seed: int, index: int) -> tuple[Tensor, Tensor] | None:
        """Return s U Z and V of a matrix that is taken in its own shape, or of a stack."""
        if not self.has_factors(index):
            return None
        z, (u, v) = self.coordinates(seed, index), self.basis(index)
        return self.scale(u, v) * product(u, z), v

    def scale(self, u: Tensor, v: Tensor) -> float:
        """Return s, from m, n and r of one matrix."""
        return math.sqrt(u.shape[-2] * v.shape[-1]) / max(u.shape[-1], 1) if self.scaled else 1.0

    def carry(self, coordinates: Tensor, index: int, old: Directions) -> Tensor:
        """Return (U^T U_old) Z (V_old V^T): the orthogonal projection on the new subspace."""
        if self.params[index].ndim < 2 or not isinstance(old, Subspace):
            return coordinates
        (u_old, v_old), (u, v) = old.basis(index), self.basis(index)
        left, right = product(u.mT, u_old).to(coordinates), product(v_old, v.mT).to(coordinates)
        return product(product(left, coordinates), right)

    def basis(self, index: int) -> tuple[Tensor, Tensor]:
        """Return U (m, r) and V (r, n) of a matrix, or of each matrix of a stack."""
        if index not in self._bases:
            p = self.params[index]
            if is_stack(p.shape, self.rank):
                experts, (m, n) = p.shape[:1], p.shape[1:]
            else:
                experts, (m, n) = (), matrix_shape(p.shape, self.rank, self.square)
            r = min(self.rank, m, n)
            u, v = (
                orthonormal(
                    torch.Size((*experts, side, r)),
                    index,
                    mix64(self.basis_seed, which),
                    device=p.device,
                    haar=self.haar,
                )
                for which, side in enumerate((m, n))
            )
            self._bases[index] = u, v.mT
        return self._bases[index]
