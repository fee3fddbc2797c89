"""Padding rows: the rows of embeddings that stand for no token, and directions that leave them."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from bszo.perturb.directions.base import Directions
from bszo.perturb.directions.wrapped import Wrapped
from bszo.perturb.noise import Terms, round_to
from bszo.perturb.noise.gpu import Scalars


def padding_rows(params: Sequence[Tensor], module: nn.Module | None) -> dict[int, int]:
    """Return {number of a parameter: its padding row}, for parameters that nothing but embeddings
    with this `padding_idx` owns.

    Backpropagation gives such a row no gradient. A weight that an output layer shares has one
    there, by the output layer, and so has no padding row here.
    """
    if module is None:
        return {}
    number = {id(p): i for i, p in enumerate(params)}
    found: dict[int, set[int | None]] = {}
    for part in module.modules():
        row = part.padding_idx if isinstance(part, (nn.Embedding, nn.EmbeddingBag)) else None
        for name, p in part._parameters.items():
            if id(p) in number:
                found.setdefault(number[id(p)], set()).add(row if name == "weight" else None)
    alone = {i: rows.pop() for i, rows in found.items() if len(rows) == 1}
    return {i: row for i, row in alone.items() if row is not None}


class Unpadded(Wrapped):
    """z with zeros in the padding rows, which so never move but for weight decay.

    Args:
        base: the family that draws z.
        rows: {number of a parameter: its padding row}; see `padding_rows`.
    """

    def __init__(self, base: Directions, rows: Mapping[int, int]) -> None:
        super().__init__(base)
        self.rows = rows

    def changed(self, z: Tensor, index: int) -> Tensor:
        if index not in self.rows:
            return z
        z = z.clone()  # the base may keep z for the whole step
        z[self.rows[index]] = 0
        return z

    def has_factors(self, index: int) -> bool:
        return index not in self.rows and self.base.has_factors(index)

    def factors(self, seed: int, index: int) -> tuple[Tensor, Tensor] | None:
        return self.base.factors(seed, index) if self.has_factors(index) else None

    def stacks(self, seeds: Sequence[int], index: int) -> tuple[Tensor, Tensor] | None:
        stacks = self.base.stacks(seeds, index)
        if stacks is None or index not in self.rows:
            return stacks
        a, b = stacks[0].clone(), stacks[1]  # the base keeps its own
        a[:, self.rows[index]] = 0
        return a, b

    def left_rows(
        self, seeds: Sequence[int], index: int, rows: Tensor, of: Tensor
    ) -> Tensor | None:
        found = self.base.left_rows(seeds, index, rows, of)
        if found is None or index not in self.rows:
            return found
        return found.masked_fill((rows == self.rows[index])[..., None], 0.0)

    def right(self, seeds: Sequence[int], index: int) -> Tensor | None:
        return self.base.right(seeds, index)

    def vectors(self, seeds: Sequence[int], index: int) -> Tensor | None:
        return self.base.vectors(seeds, index)

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
        still = self._still(theta, index, decay, rounding_seed)
        moved = self.base.shift(
            theta, index, terms, decay=decay, out=out, rounding_seed=rounding_seed
        )
        if still is not None:
            moved[self.rows[index]] = still
        return moved

    def shift_rows(self, theta: Tensor, index: int, rows: Tensor, terms: Terms) -> Tensor:
        moved = self.base.shift_rows(theta, index, rows, terms)
        if index not in self.rows:
            return moved
        return torch.where((rows == self.rows[index])[:, None], theta[rows], moved)

    def shift_all_(
        self, terms: Sequence[Terms], decay: Sequence[float], rounding_seeds: Sequence[int | None]
    ) -> None:
        still = {
            i: self._still(self.params[i].data, i, decay[i], rounding_seeds[i]) for i in self.rows
        }
        self.base.shift_all_(terms, decay, rounding_seeds)
        for i, row in still.items():
            if row is not None:
                self.params[i].data[self.rows[i]] = row

    def scalars(self, terms: Terms) -> Scalars | None:
        return self.base.scalars(terms)

    def by_scalars(self, index: int) -> bool:
        return index not in self.rows and self.base.by_scalars(index)

    def _still(
        self, theta: Tensor, index: int, decay: float, rounding_seed: int | None
    ) -> Tensor | None:
        """Return the padding row as it is after a shift along nothing."""
        if index not in self.rows:
            return None
        row = theta[self.rows[index]].clone()
        if decay == 1.0:
            return row
        wide = row.to(torch.promote_types(row.dtype, torch.float32))
        wide = torch.add(wide, wide, alpha=decay - 1.0)
        return round_to(wide, index, rounding_seed, row, first=self.rows[index] * row.numel())
