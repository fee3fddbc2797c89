"""Families whose direction of a matrix is a product of two thin factors: rows of it cost those rows
alone."""

from collections.abc import Iterator

import torch
from torch import Tensor

from bszo.perturb.directions.base import KEEP_BELOW, Directions
from bszo.perturb.noise import Terms, round_to

AT_ONCE = 1 << 20  # elements of a large matrix that are made at a time


class Factored(Directions):
    """z = A B, A (rows, r) and B (r, columns) small. A family says what they are (`factors`).

    A large matrix is shifted some rows at a time, and a lookup makes the rows that it reads: the
    whole of z, four times a large model's embedding while it is added up, is nowhere.
    """

    def factors(self, seed: int, index: int) -> tuple[Tensor, Tensor] | None:
        """A and B; None where z is no such product in the parameter's own shape."""
        return None

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
        pairs = (
            self._pairs(index, terms) if theta.ndim == 2 and theta.numel() > KEEP_BELOW else None
        )
        if pairs is None:
            return super().shift(
                theta, index, terms, decay=decay, out=out, rounding_seed=rounding_seed
            )
        out = torch.empty_like(theta) if out is None else out
        for rows in _slices(theta):
            acc = _summed(theta[rows], decay, [(c, a[rows], b) for c, a, b in pairs])
            round_to(acc, index, rounding_seed, out[rows], first=rows.start * theta.shape[1])
        return out

    def shift_rows(self, theta: Tensor, index: int, rows: Tensor, terms: Terms) -> Tensor:
        pairs = self._pairs(index, terms) if theta.numel() > KEEP_BELOW else None
        if pairs is None:
            return super().shift_rows(theta, index, rows, terms)
        return _summed(theta[rows], 1.0, [(c, a[rows], b) for c, a, b in pairs]).to(theta.dtype)

    def _pairs(self, index: int, terms: Terms) -> list[tuple[float, Tensor, Tensor]] | None:
        found = [(c, self.factors(seed, index)) for seed, c in terms.items()]
        return (
            None
            if any(pair is None for _, pair in found)
            else [(c, *pair) for c, pair in found if pair is not None]
        )


def _slices(theta: Tensor) -> Iterator[slice]:
    step = max(1, AT_ONCE // theta.shape[1])
    return (slice(start, start + step) for start in range(0, theta.shape[0], step))


def _summed(theta: Tensor, decay: float, terms: list[tuple[float, Tensor, Tensor]]) -> Tensor:
    acc = theta.to(torch.promote_types(theta.dtype, torch.float32)) * decay
    for c, a, b in terms:
        acc.add_(product(a, b).to(acc.dtype), alpha=c)
    return acc


def product(a: Tensor, b: Tensor) -> Tensor:
    """a b in their own type. A closure's autocast would round the perturbation's product and not
    the update's."""
    if not torch.is_autocast_enabled(a.device.type):
        return a @ b
    with torch.autocast(a.device.type, enabled=False):
        return a @ b
