"""InputSpan: directions of a linear layer's weight whose rows lie in the span of the layer's inputs
(AGZO)."""

import math
from collections.abc import MutableMapping, Sequence

import torch
from torch import Tensor

from bszo.perturb.directions.factored import Factored, product
from bszo.perturb.directions.gaussian import Gaussian
from bszo.perturb.noise import Terms


class InputSpan(Factored):
    """P = s R A^T for a weight (d_out, d_in) with a basis A (d_in, r); R (d_out, r) is Gaussian,
    from the seed.

    E|P|^2 = s^2 r d_out, which with s = sqrt(d_in / r) is a Gaussian's. A parameter that has no
    basis has a Gaussian direction, or none.

    Args:
        params: the parameters.
        bases: A by the number of a parameter; read whenever a direction is made, and emptied by
            `release`.
        scaled: s = sqrt(d_in / r), or 1.
        others: whether parameters without a basis move.
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        bases: MutableMapping[int, Tensor],
        *,
        scaled: bool,
        others: bool,
    ) -> None:
        super().__init__(params)
        self.bases, self.scaled, self.others = bases, scaled, others
        self._gaussian = Gaussian(params).singly()

    def own(self, index: int, terms: Terms) -> Terms:
        return terms if self.others or index in self.bases else {}

    def direction(self, seed: int, index: int) -> Tensor:
        pair = self.factors(seed, index)
        if pair is not None:
            return product(*pair)
        if self.others:
            return self._gaussian.direction(seed, index)
        p = self.params[index]
        return torch.zeros(p.shape, dtype=torch.float32, device=p.device)

    def has_factors(self, index: int) -> bool:
        return index in self.bases

    def factors(self, seed: int, index: int) -> tuple[Tensor, Tensor] | None:
        """Return s R and A^T."""
        a = self.bases.get(index)
        return None if a is None else (self._scale(a) * self.coordinates(seed, index), a.mT)

    def compressed(self, index: int) -> bool:
        return index in self.bases

    def coordinates(self, seed: int, index: int) -> Tensor:
        """Return R (d_out, r); without a basis, the direction itself."""
        a = self.bases.get(index)
        if a is None:
            return self.direction(seed, index)
        p = self.params[index]
        return self.values(torch.Size((p.shape[0], a.shape[1])), index, seed).to(a.dtype)

    def expand(self, coordinates: Tensor, index: int) -> Tensor:
        a = self.bases.get(index)
        return coordinates if a is None else product(self._scale(a) * coordinates.to(a), a.mT)

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
        shift = super().shift if index in self.bases or not self.others else self._gaussian.shift
        own = self.own(index, terms)
        return shift(theta, index, own, decay=decay, out=out, rounding_seed=rounding_seed)

    def shift_rows(self, theta: Tensor, index: int, rows: Tensor, terms: Terms) -> Tensor:
        if index in self.bases:
            return super().shift_rows(theta, index, rows, terms)
        own = self.own(index, terms)
        return self._gaussian.shift_rows(theta, index, rows, own) if own else theta[rows]

    def release(self) -> None:
        super().release()
        self.bases.clear()

    def _scale(self, a: Tensor) -> float:
        return math.sqrt(a.shape[0] / a.shape[1]) if self.scaled else 1.0
