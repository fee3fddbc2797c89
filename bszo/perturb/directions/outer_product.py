"""OuterProduct, the family of EGGROLL: a matrix's direction is A B^T / sqrt(r), new at every
seed."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bszo.perturb.directions.factored import Factored, is_stack, product
from bszo.perturb.noise.seeds import mix64


class OuterProduct(Factored):
    """A B^T / sqrt(r) for a matrix (m, n), with Gaussian A (m, r) and B (n, r) from the seed; a
    vector's direction is Gaussian.

    E|z|^2 = m n, and the mean of <G, z> z is G. Two seeds share no factor, so that the family has
    no coordinates beside z itself.

    Args:
        params: the parameters. A matrix has two axes; one with three may be a stack of matrices
            (`factored.is_stack`), or else, as one with more, is folded into a matrix's columns.
        rank: r.

    Source: Sarkar et al. 2025 (EGGROLL), arXiv 2511.16652.
    """

    def __init__(self, params: Sequence[Tensor], rank: int) -> None:
        super().__init__(params)
        self.rank = rank

    def compressed(self, index: int) -> bool:
        return False

    def direction(self, seed: int, index: int) -> Tensor:
        p = self.params[index]
        if p.ndim < 2:
            return self.values(p.shape, index, seed)
        return product(*self._pair(seed, index)).view(p.shape)

    def has_factors(self, index: int) -> bool:
        p = self.params[index]
        return p.ndim == 2 or is_stack(p.shape, self.rank)

    def factors(self, seed: int, index: int) -> tuple[Tensor, Tensor] | None:
        """Return A / sqrt(r) and B^T of a matrix, or of a stack of them."""
        return self._pair(seed, index) if self.has_factors(index) else None

    def _pair(self, seed: int, index: int) -> tuple[Tensor, Tensor]:
        p = self.params[index]
        stack = is_stack(p.shape, self.rank)
        *experts, m, n = p.shape if stack else (p.shape[0], p.shape[1:].numel())
        a, b = (
            self.values(torch.Size((*experts, side, self.rank)), index, mix64(seed, which))
            for which, side in enumerate((m, n))
        )
        return a / self.rank**0.5, b.mT
