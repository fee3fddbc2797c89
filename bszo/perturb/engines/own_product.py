"""OwnProducts: what thin factors of the examples' own add to a layer's answer."""

from typing import Any

import torch
from torch import Tensor

from bszo.perturb import compiled


class OwnProducts:
    """y_p <- y_p + c A_e (B_e^T x_p) at every position p, of example e.

    Args:
        fused: take the compiled kernel where it serves, which sums in fp32 and rounds once. It
            changes the last digits, so that it is for large models alone.
    """

    def __init__(self, fused: bool) -> None:
        self.fused = fused
        self._in_turn: dict[tuple[int, int], Tensor] = {}  # (positions, examples) -> each one's
        self._masks: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = {}  # each with its `where`

    def add_(
        self, y: Tensor, x: Tensor, a: Tensor, b: Tensor, where: Tensor | None, c: float
    ) -> None:
        """Add to y (.., m), in its memory.

        Args:
            y, x: the layer's answer (.., m) and its input (.., n), of one type.
            a, b: A (G, m, r) and B (G, n, r), in fp32 at least.
            where: which example a position is of, from 0 to G - 1; None where the first axis is the
                examples'.
            c: the length.
        """
        if self.fused and compiled.serves(y, x := x.contiguous()):
            x = x.view(-1, x.shape[-1])
            of = self._in_order(len(x), len(a)) if where is None else where.reshape(-1)
            compiled.add_own(y.view(-1, y.shape[-1]), x, a, b, of, c)
            return
        a, b = a.to(y), b.to(y)
        if where is None:
            inner = torch.bmm(x.reshape(len(a), -1, x.shape[-1]), b)
            y.view(len(a), -1, y.shape[-1]).baddbmm_(inner, a.mT, alpha=c)
            return
        # every position meets the factors of all G examples, of which the mask leaves it its own: G
        # times the arithmetic, in two products of matrices
        inner = x.reshape(-1, x.shape[-1]) @ b.transpose(0, 1).flatten(1)  # (positions, G r)
        inner.mul_(self.mask(where, b, y))
        y.view(-1, y.shape[-1]).addmm_(inner, a.mT.flatten(0, 1), alpha=c)

    def mask(self, where: Tensor, b: Tensor, like: Tensor) -> Tensor:
        """Which of the G r factors are a position's own, (positions, G r), in the type and place of
        `like`."""
        form = (
            where.data_ptr(),
            where.shape,
            where.stride(),
            len(b),
            b.shape[-1],  # a family may clip the rank of a small matrix
            like.device,
            like.dtype,
        )
        if form not in self._masks:
            of_factor = torch.arange(len(b), device=like.device).repeat_interleave(b.shape[-1])
            own = where.to(like.device).reshape(-1, 1) == of_factor
            self._masks[form] = where, own.to(like.dtype)  # nobody else gets `where`'s address
        return self._masks[form][1]

    def _in_order(self, positions: int, examples: int) -> Tensor:
        """The example of each position, where all of one stand together."""
        form = positions, examples
        if form not in self._in_turn:
            each = torch.arange(examples, device="cpu")
            self._in_turn[form] = each.repeat_interleave(positions // examples)
        return self._in_turn[form]
