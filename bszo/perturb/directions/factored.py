"""Factored: families whose direction of a matrix is a product of two thin factors.

Rows of such a matrix cost those rows alone.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from bszo.perturb.directions.base import KEEP_BELOW, Directions
from bszo.perturb.noise import Terms, gpu, round_to, values

AT_ONCE = 1 << 20  # elements of a large matrix that are made at a time


def is_stack(shape: torch.Size, rank: int) -> bool:
    """Whether a parameter is a stack of matrices (experts, rows, columns), such as the weights of a
    layer that is a mixture of experts.

    Each matrix then has factors of its own. Only where both sides are larger than the rank is there
    something to factor: else all axes but the first are folded into one matrix's columns, as those
    of a convolution with a small kernel are.
    """
    return len(shape) == 3 and min(shape[1:]) > rank


class Factored(Directions):
    """z = A B with A (rows, r) and B (r, columns) small; a family says in `factors` what they are.

    A stack of matrices has A (experts, rows, r) and B (experts, r, columns). A large parameter is
    shifted some rows (experts) at a time, and a lookup makes the rows that it reads. So nothing is
    ever as large as the whole z, which for a large model's embedding takes four times its memory
    while it is added up.
    """

    def __init__(self, params: Sequence[Tensor]) -> None:
        super().__init__(params)
        num_elements = sum(p.numel() for p in self.params)
        self.small = num_elements <= KEEP_BELOW and not any(gpu.serves(p) for p in self.params)
        self._made: dict[tuple[int, int, torch.Size], Tensor] = {}

    def values(self, shape: torch.Size, index: int, seed: int) -> Tensor:
        """Return noise in the shape of a factor of one parameter. A small model, in which a call
        costs more than its values, keeps it until `release`."""
        key = (seed, index, shape)
        if key in self._made:
            return self._made[key]
        made = values(shape, index, seed, device=self.params[index].device)
        if self.small:
            self._made[key] = made
        return made

    def release(self) -> None:
        super().release()
        self._made.clear()

    def factors(self, seed: int, index: int) -> tuple[Tensor, Tensor] | None:
        """Return A and B. None means that z is no such product in the parameter's own shape."""
        return None

    def compressed(self, index: int) -> bool:
        return self.params[index].ndim >= 2

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
        large = theta.ndim in (2, 3) and theta.numel() > KEEP_BELOW
        pairs = self._pairs(index, terms) if large else None
        if pairs is None:
            return super().shift(
                theta, index, terms, decay=decay, out=out, rounding_seed=rounding_seed
            )
        out = torch.empty_like(theta) if out is None else out
        size = theta[0].numel()
        for rows in _slices(theta.shape[0], size):
            acc = _summed(theta[rows], decay, [(c, a[rows], _part(b, rows)) for c, a, b in pairs])
            round_to(acc, index, rounding_seed, out[rows], first=rows.start * size)
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


def _slices(count: int, size: int) -> Iterator[slice]:
    step = max(1, AT_ONCE // size)
    return (slice(start, start + step) for start in range(0, count, step))


def _part(b: Tensor, rows: slice) -> Tensor:
    """B of these rows: one for all, or one an expert."""
    return b[rows] if b.ndim == 3 else b


def _summed(theta: Tensor, decay: float, terms: list[tuple[float, Tensor, Tensor]]) -> Tensor:
    acc = theta.to(torch.promote_types(theta.dtype, torch.float32)) * decay
    for c, a, b in terms:
        acc.add_(product(a, b).to(acc.dtype), alpha=c)
    return acc


def product(a: Tensor, b: Tensor) -> Tensor:
    """Return a b in their own type: a closure's autocast would round the perturbation's product and
    not the update's."""
    if not torch.is_autocast_enabled(a.device.type):
        return a @ b
    with torch.autocast(a.device.type, enabled=False):
        return a @ b
