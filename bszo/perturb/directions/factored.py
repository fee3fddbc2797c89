"""Factored: families whose direction of a matrix is a product of two thin factors.

Rows of such a matrix cost those rows alone.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from bszo.perturb import compiled
from bszo.perturb.directions.base import COMPILE_FROM, KEEP_BELOW, Directions
from bszo.perturb.noise import Distribution, Terms, add, check_rounding, gpu, values
from bszo.perturb.noise.seeds import key

AT_ONCE = 1 << 20  # elements of a large matrix that are made at a time
KEEP_PIECE = 1 << 16  # elements of a vector or a thin factor that a CPU keeps for one step


def is_stack(shape: torch.Size, rank: int) -> bool:
    """Whether a parameter is a stack of matrices (experts, rows, columns), such as the weights of a
    layer that is a mixture of experts.

    Each matrix then has factors of its own. Only where both sides are larger than the rank is there
    something to factor: else all axes but the first are folded into one matrix's columns, as those
    of a convolution with a small kernel are.
    """
    return len(shape) == 3 and min(shape[1:]) > rank


class Factored(Directions):
    """z = A B with A (rows, r) and B (r, columns) small; a family says in `has_factors` where z is
    such a product, and in `factors` what they are.

    A stack of matrices has A (experts, rows, r) and B (experts, r, columns). A large parameter is
    shifted some rows (experts) at a time, and a lookup makes the rows that it reads. So nothing is
    ever as large as the whole z, which for a large model's embedding takes four times its memory
    while it is added up.
    """

    distribution: Distribution = "gaussian"  # of the elements of the factors that are drawn

    def __init__(self, params: Sequence[Tensor]) -> None:
        super().__init__(params)
        num_elements = sum(p.numel() for p in self.params)
        self.small = num_elements <= KEEP_BELOW and not any(gpu.serves(p) for p in self.params)
        self.fused = num_elements >= COMPILE_FROM
        self._made: dict[tuple[int, int, torch.Size], Tensor] = {}

    def values(self, shape: torch.Size, index: int, seed: int) -> Tensor:
        """Return noise in the shape of a factor of one parameter. Where a call costs more than its
        values, which is so for thin factors and in small models, it is kept until `release`."""
        key = (seed, index, shape)
        if key in self._made:
            return self._made[key]
        device, law = self.params[index].device, self.distribution
        made = values(shape, index, seed, device=device, distribution=law, fused=self.fused)
        if self.small or (device.type == "cpu" and made.numel() <= KEEP_PIECE):
            self._made[key] = made
        return made

    def release(self) -> None:
        super().release()
        self._made.clear()

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
        sides = self._sides(theta, index, terms) if theta.ndim in (2, 3) else None
        if sides is None:
            return super().shift(
                theta, index, terms, decay=decay, out=out, rounding_seed=rounding_seed
            )
        out = torch.empty_like(theta) if out is None else out
        return self.add_product(theta, index, *sides, decay, out, rounding_seed)

    def add_product(
        self,
        theta: Tensor,
        index: int,
        left: Tensor,
        right: Tensor,
        decay: float,
        out: Tensor,
        rounding_seed: int | None,
    ) -> Tensor:
        """Return decay theta + left right, without the whole product: the compiled kernel holds it
        in registers, and where it does not serve, some rows are made at a time."""
        if not theta.numel():
            return out
        if self._in_registers(theta, left, out):
            check_rounding(rounding_seed, out.dtype)
            round_key = None if rounding_seed is None else key(rounding_seed, index)
            together = out, theta, left.contiguous(), right.contiguous()
            stacks = together if theta.ndim == 3 else ([part] for part in together)
            for e, (into, matrix, a, b) in enumerate(zip(*stacks, strict=True)):
                at = {"decay": decay, "first": e * matrix.numel(), "round_key": round_key}
                compiled.shift(into, matrix, [], [], product=(a, b), **at)
            return out
        size = theta[0].numel()
        for rows in _slices(theta.shape[0], size):
            add(
                theta[rows],
                product(left[rows], _part(right, rows)),
                index,
                decay=decay,
                out=out[rows],
                rounding_seed=rounding_seed,
                first=rows.start * size,
                fused=self.fused,
            )
        return out

    def _in_registers(self, theta: Tensor, left: Tensor, out: Tensor) -> bool:
        """Whether the compiled kernel takes theta + left right."""
        same = theta.dtype == out.dtype and left.dtype == torch.float32
        return self.fused and same and compiled.serves(out, theta)

    def shift_rows(self, theta: Tensor, index: int, rows: Tensor, terms: Terms) -> Tensor:
        sides = self._sides(theta, index, terms)
        if sides is None:
            return super().shift_rows(theta, index, rows, terms)
        left, right = sides
        return (theta[rows] + product(left[rows], right)).to(theta.dtype)

    def _sides(self, theta: Tensor, index: int, terms: Terms) -> tuple[Tensor, Tensor] | None:
        """Return [c_1 A_1 .. c_k A_k] and [B_1 .. B_k], side by side and one above the other, whose
        product is sum_i c_i A_i B_i. None means that z is no such product, or that theta is so
        small that z is made whole."""
        if not terms or not (self.fused or theta.numel() > KEEP_BELOW):
            return None
        pairs = [(c, self.factors(seed, index)) for seed, c in terms.items()]
        wide = torch.promote_types(theta.dtype, torch.float32)
        left = [c * pair[0].to(wide) for c, pair in pairs if pair is not None]
        right = [pair[1].to(wide) for _, pair in pairs if pair is not None]
        if len(left) < len(pairs):
            return None
        if len(terms) == 1:
            return left[0], right[0]
        return torch.cat(left, dim=-1), torch.cat(right, dim=-2)


def _slices(count: int, size: int) -> Iterator[slice]:
    step = max(1, AT_ONCE // size)
    return (slice(start, start + step) for start in range(0, count, step))


def _part(b: Tensor, rows: slice) -> Tensor:
    """B of these rows: one for all, or one an expert."""
    return b[rows] if b.ndim == 3 else b


def product(a: Tensor, b: Tensor) -> Tensor:
    """Return a b in their own type: a closure's autocast would round the perturbation's product and
    not the update's."""
    if not torch.is_autocast_enabled(a.device.type):
        return a @ b
    with torch.autocast(a.device.type, enabled=False):
        return a @ b
