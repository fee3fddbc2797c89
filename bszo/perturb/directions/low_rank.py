"""LowRank, the family of LOZO: a matrix's direction is U V^T, with a U for each step and a V that
stays for many."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bszo.perturb import compiled, noise
from bszo.perturb.directions.base import Directions
from bszo.perturb.directions.factored import Factored, is_stack, product
from bszo.perturb.noise import Terms, gpu
from bszo.perturb.noise.seeds import key, mix64


class LowRank(Factored):
    """P = U V^T for a matrix: U (rows, rank) comes from the seed, V (columns, rank) from the basis
    seed. A vector's direction is Gaussian.

    E[P] = 0 and E|P|^2 = rank * rows * columns. A factor 1/rank, where one is wanted, belongs to
    the step.

    Args:
        params: the parameters. One with two axes is a matrix; one with three is a stack of matrices
            with a U and a V each (`factored.is_stack`), or else, as one with more, is folded into a
            matrix's columns.
        rank: the number of columns of U and V; more than the smaller side of a matrix is of no use.
        basis_seed: names V; it stays for many steps while the seed changes each step.
        stream: another number draws another U from the same seed (the published code's redraw
            steps).

    Source: Chen et al. 2024 (LOZO), arXiv 2410.07698.
    """

    def __init__(
        self, params: Sequence[Tensor], rank: int, basis_seed: int, stream: int = 0
    ) -> None:
        super().__init__(params)
        self.rank, self.basis_seed, self.stream = rank, basis_seed, stream

    def direction(self, seed: int, index: int) -> Tensor:
        return self.expand(self.coordinates(seed, index), index)

    def coordinates(self, seed: int, index: int) -> Tensor:
        """Return U (rows, rank), or (experts, rows, rank) of a stack; a vector's own noise."""
        p = self.params[index]
        if p.ndim < 2:
            shape = p.shape
        else:
            rows = p.shape[:2] if is_stack(p.shape, self.rank) else p.shape[:1]
            shape = torch.Size((*rows, self.rank))
        return self.values(shape, index, mix64(seed, self.stream))

    def expand(self, coordinates: Tensor, index: int) -> Tensor:
        p = self.params[index]
        return (
            coordinates
            if p.ndim < 2
            else product(coordinates, self.basis(index).to(coordinates).mT).view(p.shape)
        )

    def has_factors(self, index: int) -> bool:
        p = self.params[index]
        return p.ndim == 2 or is_stack(p.shape, self.rank)

    def factors(self, seed: int, index: int) -> tuple[Tensor, Tensor] | None:
        """Return U and V^T of a matrix, or of a stack of them."""
        if not self.has_factors(index):
            return None
        u = self.coordinates(seed, index)
        return u, self.basis(index).to(u).mT

    def carry(self, coordinates: Tensor, index: int, old: Directions) -> Tensor:
        """Return U V_old^T V / columns: the expectation of V^T V / columns is the identity."""
        if self.params[index].ndim < 2 or not isinstance(old, LowRank):
            return coordinates
        v_old, v = old.basis(index), self.basis(index)
        return product(coordinates, (product(v_old.mT, v) / v.shape[-2]).to(coordinates))

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
        on_gpu = gpu.serves(theta) and theta.is_contiguous()
        if theta.ndim < 2 and (on_gpu or (self.fused and compiled.serves(theta))):
            own = {mix64(seed, self.stream): c for seed, c in terms.items()}
            how: Any = {"decay": decay, "out": out, "rounding_seed": rounding_seed}
            return noise.shift(theta, index, own, fused=self.fused, **how)
        if not on_gpu or theta.ndim > 2:
            return super().shift(
                theta, index, terms, decay=decay, out=out, rounding_seed=rounding_seed
            )
        out = torch.empty_like(theta) if out is None else out
        keys = [key(mix64(seed, self.stream), index) for seed in terms]
        round_key = None if rounding_seed is None else key(rounding_seed, index)
        gpu.shift_low_rank(
            out,
            theta,
            keys,
            list(terms.values()),
            key(self.basis_seed, index),
            self.rank,
            decay=decay,
            round_key=round_key,
        )
        return out

    def basis(self, index: int) -> Tensor:
        """Return V (columns, rank) of a matrix, or (experts, columns, rank) of a stack."""
        p = self.params[index]
        columns = (
            (p.shape[0], p.shape[2]) if is_stack(p.shape, self.rank) else (p.shape[1:].numel(),)
        )
        return self.values(torch.Size((*columns, self.rank)), index, self.basis_seed)
