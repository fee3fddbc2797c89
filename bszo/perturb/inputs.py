"""Inputs of linear layers: bases of the spaces that they span, found while a pass runs."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bszo.perturb import noise
from bszo.perturb.directions.factored import product
from bszo.perturb.engines.hooks import linear_layers


class InputBases:
    """A (d_in, r) with orthonormal columns for the weight of each linear layer: an estimate of the
    r strongest directions of its inputs H (d_in, tokens of the pass), by `rounds` of power
    iteration, Q <- qr(H H^T Q), from Q = qr(H Omega) with a Gaussian Omega. A basis that is kept
    from earlier passes follows Oja's rule instead, A <- qr(A + rate H H^T A / tokens): it turns to
    what the inputs of many passes have in common.

    Linear layers are `nn.Linear`, those of adapters among them; a weight that another kind of
    module owns too, such as an embedding, is none. H is read in fp32 at least, just before its
    layer runs, and is not kept. Where a layer runs again in the pass, what it has seen before
    counts by its part in A: H is then [A (A^T H H^T A)^(1/2), new inputs].

    Args:
        numbers: {id of a parameter: its number}, of those that train.
        module: the module that the closure runs.
        rank: r, clipped to d_in.
        rounds: of power iteration.

    Attributes:
        layers: the linear layers, with the numbers of their weights.
        found: the bases by number, from the last pass that was watched, until they are cleared.
    """

    def __init__(
        self, numbers: Mapping[int, int], module: nn.Module, rank: int, rounds: int
    ) -> None:
        self.rank, self.rounds = rank, rounds
        self.layers = linear_layers(module, numbers)
        self.found: dict[int, Tensor] = {}
        self._grams: dict[int, Tensor] = {}  # A^T H H^T A
        self._tokens: dict[int, int] = {}  # columns of H

    @contextmanager
    def watched(
        self, seed: int, kept: Mapping[int, Tensor] | None = None, rate: float = 0.0
    ) -> Iterator[None]:
        """While active, every linear layer that runs leaves its basis in `found`.

        Args:
            seed: of Omega.
            kept: bases by number that follow Oja's rule; they stay as they are.
            rate: of Oja's rule.
        """
        self.clear()
        kept = kept or {}

        def before(layer: nn.Module, args: Any, kwargs: Any) -> None:
            self._see(self.layers[layer], args[0] if args else kwargs["input"], seed, kept, rate)

        handles = [
            layer.register_forward_pre_hook(before, with_kwargs=True) for layer in self.layers
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def clear(self) -> None:
        """Drop the bases."""
        self.found.clear()
        self._grams.clear()
        self._tokens.clear()

    @torch.no_grad()
    def _see(
        self, number: int, values: Tensor, seed: int, kept: Mapping[int, Tensor], rate: float
    ) -> None:
        wide = torch.promote_types(values.dtype, torch.float32)
        h = values.detach().reshape(-1, values.shape[-1]).to(wide).mT  # (d_in, tokens)
        tokens = self._tokens[number] = self._tokens.get(number, 0) + h.shape[1]
        if number in self.found:
            strength, axes = torch.linalg.eigh(self._grams[number])
            root = axes * strength.clamp(min=0).sqrt()
            h = torch.cat([product(self.found[number], root), h], dim=1)
        rank = min(self.rank, h.shape[0])
        if number in kept and kept[number].shape[1] == rank:
            q = kept[number].to(h)
            a = _orthonormal(q + (rate / max(tokens, 1)) * product(h, product(h.mT, q)))
        else:
            size = torch.Size((h.shape[1], rank))
            omega = noise.values(size, number, seed, device=h.device).to(wide)
            a = _orthonormal(product(h, omega))
            for _ in range(self.rounds):
                a = _orthonormal(product(h, product(h.mT, a)))
        part = product(a.mT, h)  # (r, tokens)
        self.found[number], self._grams[number] = a, product(part, part.mT)


def _orthonormal(columns: Tensor) -> Tensor:
    """Q of the factorization whose R has no negative number on its diagonal: the sign that a column
    has then is the same on every device."""
    q, r = torch.linalg.qr(columns)
    return torch.where(r.diagonal() < 0, -q, q)
