"""ColumnSpace, the family of ZO-Muon: a matrix's direction is P u, with a P that stays for a while
and a u for each probe."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from bszo.perturb.directions.factored import Factored, is_stack, product
from bszo.perturb.directions.orthonormal import orthonormal


class ColumnSpace(Factored):
    """P u for a matrix (m, n): every column lies in the span of P's. A vector's direction is
    Gaussian.

    P (m, r) has orthonormal columns, uniform over all such (Haar), from the basis seed; it is made
    once and kept (r m fp32 elements a matrix). u (r, n) is Gaussian, from the seed. r is clipped to
    min(m, n). E|P u|^2 = r n.

    Args:
        params: the parameters. A matrix has two axes or more, those beyond the first folded into
            its columns; one with three may be a stack of matrices (`factored.is_stack`).
        rank: r.
        basis_seed: names P.
        whole: numbers of parameters whose direction is Gaussian though they are matrices.
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        rank: int,
        basis_seed: int,
        *,
        whole: Collection[int] = (),
    ) -> None:
        super().__init__(params)
        self.rank, self.basis_seed, self.whole = rank, basis_seed, frozenset(whole)
        self._bases: dict[int, Tensor] = {}

    def compressed(self, index: int) -> bool:
        return self.params[index].ndim >= 2 and index not in self.whole

    def direction(self, seed: int, index: int) -> Tensor:
        return self.expand(self.coordinates(seed, index), index)

    def coordinates(self, seed: int, index: int) -> Tensor:
        """Return u (r, n), or (experts, r, n) of a stack; a vector's own noise."""
        p = self.params[index]
        shape = p.shape
        if self.compressed(index):
            *experts, _, n = self._matrix(index)
            shape = torch.Size((*experts, self.basis(index).shape[-1], n))
        return self.values(shape, index, seed)

    def expand(self, coordinates: Tensor, index: int) -> Tensor:
        if not self.compressed(index):
            return coordinates
        basis = self.basis(index).to(coordinates)
        return product(basis, coordinates).view(self.params[index].shape)

    def has_factors(self, index: int) -> bool:
        return self.compressed(index) and self._matrix(index) == tuple(self.params[index].shape)

    def factors(self, seed: int, index: int) -> tuple[Tensor, Tensor] | None:
        """Return P and u of a matrix that is taken in its own shape, or of a stack."""
        if not self.has_factors(index):
            return None
        return self.basis(index), self.coordinates(seed, index)

    def basis(self, index: int) -> Tensor:
        """Return P (m, r) of a matrix, or (experts, m, r) of a stack."""
        if index not in self._bases:
            *experts, m, n = self._matrix(index)
            shape = torch.Size((*experts, m, min(self.rank, m, n)))
            device = self.params[index].device
            self._bases[index] = orthonormal(
                shape, index, self.basis_seed, device=device, haar=True
            )
        return self._bases[index]

    def _matrix(self, index: int) -> tuple[int, ...]:
        """Return (m, n), or (experts, m, n) of a stack."""
        shape = self.params[index].shape
        return tuple(shape) if is_stack(shape, self.rank) else (shape[0], shape[1:].numel())
