"""Weighted: directions with a factor for each parameter."""

from collections.abc import Sequence

from torch import Tensor

from bszo.perturb.directions.base import Directions
from bszo.perturb.directions.wrapped import Wrapped
from bszo.perturb.noise import Terms


class Weighted(Wrapped):
    """w_p z_p: another family's directions, in which each parameter's part has a factor of its own.

    Args:
        base: the family.
        weights: a factor for each parameter.
    """

    def __init__(self, base: Directions, weights: Sequence[float]) -> None:
        super().__init__(base)
        self.weights = list(weights)

    def changed(self, z: Tensor, index: int) -> Tensor:
        return self.weights[index] * z

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
        return self.base.shift(
            theta,
            index,
            self._scaled(terms, index),
            decay=decay,
            out=out,
            rounding_seed=rounding_seed,
        )

    def shift_rows(self, theta: Tensor, index: int, rows: Tensor, terms: Terms) -> Tensor:
        return self.base.shift_rows(theta, index, rows, self._scaled(terms, index))

    def _scaled(self, terms: Terms, index: int) -> Terms:
        return {seed: self.weights[index] * coefficient for seed, coefficient in terms.items()}
