"""PerExample, a family with a direction for each example of a batch: two thin factors of a matrix,
or a vector."""

from collections.abc import Sequence, Set

import torch
from torch import Tensor

from bszo.perturb import noise
from bszo.perturb.directions.factored import AT_ONCE, product
from bszo.perturb.directions.gaussian import COMPILE_FROM
from bszo.perturb.directions.outer_product import OuterProduct
from bszo.perturb.noise import Terms
from bszo.perturb.noise.seeds import mix64

_LEFT, _RIGHT, _VECTOR = 0, 1, 2  # the factors' numbers enter their seeds; a vector has none


class PerExample(OuterProduct):
    """z_e = A_e B_e^T / sqrt(r) for the matrices that move, a Gaussian z_e for the vectors that do,
    and 0 for everything else.

    The factors of all examples are drawn in one call, and a sum over examples is one product,
    sum_e c_e z_e = [c_1 A_1 .. c_G A_G] [B_1 .. B_G]^T / sqrt(r), or (c_1 .. c_G) Z for a vector.

    Args:
        params: the parameters.
        rank: r.
        moved: the numbers of the parameters that move; each has one axis or two.
    """

    def __init__(self, params: Sequence[Tensor], rank: int, moved: Set[int]) -> None:
        super().__init__(params, rank)
        self.moved = moved
        self.fused = sum(self.params[i].numel() for i in moved) >= COMPILE_FROM
        # (parameter, factor) -> {seeds: the factors under these}, in the order of the passes
        self._drawn: dict[tuple[int, int], dict[tuple[int, ...], Tensor]] = {}

    def own(self, index: int, terms: Terms) -> Terms:
        return terms if index in self.moved else {}

    def direction(self, seed: int, index: int) -> Tensor:
        if index in self.moved:
            return super().direction(seed, index)
        p = self.params[index]
        return torch.zeros(p.shape, dtype=torch.float32, device=p.device)

    def factors(self, seed: int, index: int) -> tuple[Tensor, Tensor] | None:
        return super().factors(seed, index) if index in self.moved else None

    def stacks(self, seeds: Sequence[int], index: int) -> tuple[Tensor, Tensor] | None:
        """Return A / sqrt(r) (G, m, r) and B (G, n, r) of one matrix for G seeds, in fp32; they are
        kept until `release`. Another parameter has none."""
        if not self._is_matrix(index):
            return None
        return self._stack(seeds, index, _LEFT), self._stack(seeds, index, _RIGHT)

    def left_rows(
        self, seeds: Sequence[int], index: int, rows: Tensor, of: Tensor
    ) -> Tensor | None:
        """Return rows of A / sqrt(r), (*rows.shape, r) in fp32. No others are drawn, and none is
        kept: a table of words has many, of which a batch reads few."""
        if not self._is_matrix(index):
            return None
        columns = torch.arange(self.rank, device=rows.device)
        counter = rows[..., None] * self.rank + columns
        left = [mix64(seed, _LEFT) for seed in seeds]
        return noise.values_at(counter, index, left, of[..., None]) / self.rank**0.5

    def right(self, seeds: Sequence[int], index: int) -> Tensor | None:
        return self._stack(seeds, index, _RIGHT) if self._is_matrix(index) else None

    def vectors(self, seeds: Sequence[int], index: int) -> Tensor | None:
        """Return z (G, n) of one vector for G seeds, in fp32; kept until `release`."""
        moves = index in self.moved and not self._is_matrix(index)
        return self._stack(seeds, index, _VECTOR) if moves else None

    def _is_matrix(self, index: int) -> bool:
        return index in self.moved and self.params[index].ndim == 2

    def _stack(self, seeds: Sequence[int], index: int, which: int) -> Tensor:
        kept, at = self._drawn.setdefault((index, which), {}), tuple(seeds)
        if at not in kept and at == sum(kept, ()):  # an update along all that the passes have drawn
            return torch.cat(list(kept.values()))
        if at not in kept:
            p = self.params[index]
            shape = p.shape if which == _VECTOR else torch.Size((p.shape[which], self.rank))
            made = noise.values_of_seeds(
                shape,
                index,
                list(seeds) if which == _VECTOR else [mix64(seed, which) for seed in seeds],
                device=p.device,
                fused=self.fused,
            )
            kept[at] = made / self.rank**0.5 if which == _LEFT else made
        return kept[at]

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
        if index not in self.moved or not terms:  # it does not move, but for weight decay
            return super().shift(
                theta, index, {}, decay=decay, out=out, rounding_seed=rounding_seed
            )
        out = torch.empty_like(theta) if out is None else out
        wide = torch.promote_types(theta.dtype, torch.float32)
        seeds = list(terms)
        c = torch.tensor(list(terms.values()), dtype=torch.float64, device=theta.device).to(wide)

        def round_(acc: Tensor, rows: slice, first: int) -> None:
            acc.add_(theta[rows] if decay == 1.0 else theta[rows].to(wide) * decay)
            noise.round_to(acc, index, rounding_seed, out[rows], first=first, fused=self.fused)

        z = self.vectors(seeds, index)
        if z is not None:
            round_(product(c, z.to(wide)), slice(None), 0)
            return out
        a, b = self._stack(seeds, index, _LEFT), self._stack(seeds, index, _RIGHT)
        left = (a.to(wide) * c[:, None, None]).transpose(0, 1).flatten(1)  # (m, G r)
        right = b.to(wide).transpose(0, 1).flatten(1).mT  # (G r, n)
        step = max(1, AT_ONCE // theta.shape[1])
        for start in range(0, theta.shape[0], step):  # a part of a large matrix at a time
            rows = slice(start, start + step)
            round_(product(left[rows], right), rows, start * theta.shape[1])
        return out

    def release(self) -> None:
        super().release()
        self._drawn.clear()
