"""Families with a direction for each example of a batch, in a subspace that all examples share and
that stays for many steps."""

from abc import abstractmethod
from collections.abc import Sequence, Set
from typing import Generic, TypeVar

import torch
from torch import Tensor

from bszo.perturb.directions.factored import product
from bszo.perturb.directions.low_rank import LowRank
from bszo.perturb.directions.per_example import LEFT, VECTOR, PerExample
from bszo.perturb.directions.subspace import Subspace
from bszo.perturb.noise import Distribution

Base = TypeVar("Base", LowRank, Subspace)


class PerExampleKept(PerExample, Generic[Base]):
    """z_e = A_e V with a V (q, n) that all examples share, so that a sum over examples is one
    product of the same width, sum_e c_e z_e = (sum_e c_e A_e) V.

    Args:
        params, rank, moved, distribution: see PerExample.
        basis_seed: names what all examples share, which stays while their own seeds change.
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        rank: int,
        moved: Set[int],
        basis_seed: int,
        distribution: Distribution = "gaussian",
    ) -> None:
        super().__init__(params, rank, moved, distribution)
        self.base = self.make_base(basis_seed)

    @abstractmethod
    def make_base(self, basis_seed: int) -> Base:
        """Return the family, without examples, whose basis is shared."""

    @abstractmethod
    def shared(self, index: int) -> Tensor:
        """Return V (q, n) of one matrix, in fp32."""

    def factors(self, seed: int, index: int) -> tuple[Tensor, Tensor] | None:
        return self._pair(seed, index) if self.has_factors(index) else None

    def right(self, seeds: Sequence[int], index: int) -> Tensor | None:
        if not self._is_matrix(index):
            return None
        return self.shared(index).mT.expand(len(seeds), -1, -1)

    def _pair(self, seed: int, index: int) -> tuple[Tensor, Tensor]:
        return self._draw([seed], index, LEFT)[0], self.shared(index)

    def _summed(self, seeds: Sequence[int], index: int, c: Tensor) -> tuple[Tensor, Tensor]:
        a = self._stack(seeds, index, LEFT).to(c.dtype)
        left = product(c[None], a.flatten(1)).view(a.shape[1:])
        return left, self.shared(index).to(c.dtype)


class PerExampleLowRank(PerExampleKept[LowRank]):
    """z_e = A_e V^T / sqrt(r), with A_e (m, r) from the example's seed and a Gaussian V (n, r) from
    the basis seed. E|z|^2 = m n, and the mean of <G, z> z over redraws of V is G.

    Args:
        params, rank, moved, basis_seed, distribution: see PerExampleKept.

    Source: Chen et al. 2024 (LOZO), arXiv 2410.07698, with directions of each example's own.
    """

    def make_base(self, basis_seed: int) -> LowRank:
        self._bases: dict[int, Tensor] = {}
        return LowRank(self.params, self.rank, basis_seed)

    def shared(self, index: int) -> Tensor:
        if index not in self._bases:
            self._bases[index] = self.base.basis(index).mT
        return self._bases[index]


class PerExampleSubspace(PerExampleKept[Subspace]):
    """z_e = s U Z_e V, with Z_e (r, r) from the example's seed, and U (m, r) and V (r, n)
    from the basis seed, with orthonormal columns and rows. r is clipped to min(m, n).

    With s = sqrt(m n) / r, E|z|^2 is m n, and the mean of <G, z> z over redraws of U and V is G.

    Args:
        params, rank, moved, basis_seed, distribution: see PerExampleKept.

    Source: Yu et al. 2024 (SubZero), arXiv 2410.08989, with directions of each example's own.
    """

    def make_base(self, basis_seed: int) -> Subspace:
        return Subspace(self.params, self.rank, basis_seed, scaled=True, square=False)

    def shared(self, index: int) -> Tensor:
        return self.base.basis(index)[1]

    def left_rows(
        self, seeds: Sequence[int], index: int, rows: Tensor, of: Tensor
    ) -> Tensor | None:
        if not self._is_matrix(index):
            return None
        u, z = self._scaled_left(index)[rows], self._coordinates(seeds, index)[of]
        return product(u[..., None, :], z)[..., 0, :]

    def _draw(self, seeds: Sequence[int], index: int, which: int) -> Tensor:
        if which != LEFT:
            return super()._draw(seeds, index, which)
        return product(self._scaled_left(index), self._coordinates(seeds, index))

    def _coordinates(self, seeds: Sequence[int], index: int) -> Tensor:
        """Return Z_e for each seed, (G, r, r)."""
        r = len(self.shared(index))
        return self._values(torch.Size((r, r)), index, seeds, VECTOR)

    def _scaled_left(self, index: int) -> Tensor:
        """Return s U."""
        u, v = self.base.basis(index)
        return self.base.scale(u, v) * u
