"""Sparse: directions of which a given share of the entries is zero, by a mask that is hashed anew
wherever it is used."""

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from bszo.perturb import noise
from bszo.perturb.directions.base import Directions
from bszo.perturb.directions.wrapped import Wrapped
from bszo.perturb.noise import Terms
from bszo.perturb.noise.seeds import mix64

MaskScope = Literal["layer", "global"]
_CHUNK = {"cpu": 1 << 16, "cuda": 1 << 24}  # elements at a time: a CPU's cache, a GPU's breadth
_SPAN = 1 << 32  # the number of different hashes


def zeros_of(params: Sequence[Tensor], sparsity: float, scope: MaskScope) -> list[float]:
    """Return how many entries of each parameter a mask zeroes, in expectation. They add up to the
    share `sparsity` of all entries.

    With scope "layer" each parameter has the share `sparsity`. With "global" a parameter has as
    many as it has among the sparsity * n entries of least magnitude of all parameters together, and
    ties are shared alike. Parameters that start at zero (an adapter's) are then the least of all.
    """
    if scope == "layer":
        return [sparsity * p.numel() for p in params]
    wanted = round(sparsity * sum(p.numel() for p in params))
    least = _magnitude_of_rank(params, wanted)
    below = [sum(int((m < least).sum()) for m in _magnitudes(p)) for p in params]
    ties = [sum(int((m == least).sum()) for m in _magnitudes(p)) for p in params]
    share = (wanted - sum(below)) / max(sum(ties), 1)
    return [b + share * t for b, t in zip(below, ties, strict=True)]


class Mask:
    """The entries of each parameter that stay: a function of (seed, parameter, element).

    The entries whose hashes are the smallest of their parameter's are zeroed: exactly as many as
    `zeros` says, and a fraction of an entry by chance, so that a scalar, too, is zeroed with its
    probability. The mask keeps one number a parameter.

    Args:
        params: the parameters.
        seed: names this draw.
        zeros: entries to zero in each, in expectation.
        numbers: names the parameters, so that a mask stays what it is while others are frozen; by
            default their places.
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        seed: int,
        zeros: Sequence[float],
        numbers: Sequence[int] = (),
    ) -> None:
        self.params, self.seed, self.zeros = list(params), seed, list(zeros)
        self.numbers = list(numbers) or list(range(len(self.params)))
        self._thresholds: dict[int, int | None] = {}

    def count(self, index: int) -> int:
        """Return how many entries of one parameter are zero."""
        chance = mix64(self.seed, self.numbers[index], 1) / 2**64
        return min(math.floor(self.zeros[index] + chance), self.params[index].numel())

    def keeps(self, index: int, counter: Tensor | None = None) -> Tensor:
        """Return True where an entry stays: in the parameter's shape, or in that of `counter`, the
        numbers of some entries."""
        p, threshold = self.params[index], self._threshold(index)
        shape = p.shape if counter is None else counter.shape
        if threshold is None:
            return torch.ones(shape, dtype=torch.bool, device=p.device)
        if counter is not None:
            return noise.bits(counter, self.numbers[index], self.seed) > threshold
        parts = [bits > threshold for bits in self._bits(index)]
        return (
            torch.cat(parts).view(shape)
            if parts
            else torch.empty(shape, dtype=torch.bool, device=p.device)
        )

    def _threshold(self, index: int) -> int | None:
        """Return the largest hash that is zeroed; None where none is."""
        if index not in self._thresholds:
            count = self.count(index)
            self._thresholds[index] = self._hash_of_rank(index, count) if count else None
        return self._thresholds[index]

    def _hash_of_rank(self, index: int, rank: int) -> int:
        """Return the `rank`-th smallest hash: one pass counts what lies below and sorts what lies
        near."""
        n = self.params[index].numel()
        centre, spread = rank / (n + 1), 8 * math.sqrt(rank * (n - rank + 1) / (n + 2)) / (n + 1)
        for low, high in ((centre - spread, centre + spread), (0.0, 1.0)):
            least, most = (min(max(int(x * _SPAN), 0), _SPAN - 1) - _SPAN // 2 for x in (low, high))
            below, near = 0, []
            for bits in self._bits(index):
                below += int((bits < least).sum())
                near.append(bits[(bits >= least) & (bits <= most)])
            close = torch.cat(near)
            if 1 <= rank - below <= close.numel():
                return int(close.sort().values[rank - below - 1])
        raise ValueError(f"parameter {index} has {n} elements; rank {rank} is none of theirs")

    def _bits(self, index: int) -> Iterator[Tensor]:
        p, number = self.params[index], self.numbers[index]
        step = _CHUNK.get(p.device.type, 1 << 16)
        for start in range(0, p.numel(), step):
            stop = min(start + step, p.numel())
            yield noise.bits(
                torch.arange(start, stop, dtype=torch.int32, device=p.device), number, self.seed
            )


class Sparse(Wrapped):
    """M z: the base family's directions with zeros where the mask has them.

    Args:
        base: the family that draws z.
        mask: says which entries stay.

    Source: Zhang et al. 2024, arXiv 2402.11592, section 5 (gradient sparsity); as run they masked
        Phi(s), not s.
    """

    def __init__(self, base: Directions, mask: Mask) -> None:
        super().__init__(base)
        self.mask = mask

    def changed(self, z: Tensor, index: int) -> Tensor:
        return z * self.mask.keeps(index)

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
        moved = self.base.shift(theta, index, terms, decay=decay, rounding_seed=rounding_seed)
        still = theta  # where nothing decays, a masked entry stays to the bit
        if decay != 1.0:
            still = super().shift(theta, index, {}, decay=decay, rounding_seed=rounding_seed)
        shifted = torch.where(self.mask.keeps(index), moved, still)
        return shifted if out is None else out.copy_(shifted)

    def shift_rows(self, theta: Tensor, index: int, rows: Tensor, terms: Terms) -> Tensor:
        columns = torch.arange(theta.shape[1], dtype=torch.int32, device=theta.device)
        counter = rows.to(torch.int32)[:, None] * theta.shape[1] + columns  # (r, columns)
        moved = self.base.shift_rows(theta, index, rows, terms)
        return torch.where(self.mask.keeps(index, counter), moved, theta[rows])


def _magnitude_of_rank(params: Sequence[Tensor], rank: int) -> int:
    """Return the `rank`-th smallest |w| of all, as the bits of an fp32: its high half is found
    first, then its low half."""
    high = _counted(m >> 16 for p in params for m in _magnitudes(p))
    bucket = int(torch.searchsorted(high.cumsum(0), max(rank, 1)))
    low = _counted(m[(m >> 16) == bucket] & 0xFFFF for p in params for m in _magnitudes(p))
    return (bucket << 16) + int(
        torch.searchsorted(low.cumsum(0), max(rank, 1) - int(high[:bucket].sum()))
    )


def _counted(values: Iterator[Tensor]) -> Tensor:
    return sum(
        (torch.bincount(v, minlength=1 << 16).cpu() for v in values),
        torch.zeros(1 << 16, dtype=torch.int64, device="cpu"),
    )


def _magnitudes(p: Tensor) -> Iterator[Tensor]:
    """Yield |w| as int32: the bits of numbers that are not negative are ordered as the numbers."""
    for part in p.detach().reshape(-1).split(_CHUNK["cuda"]):
        yield part.abs().to(torch.float32).view(torch.int32)
