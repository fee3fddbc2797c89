"""A family with a factor of its own for each parameter."""

from collections.abc import Sequence

from torch import Tensor

from bszo.perturb.directions.base import Directions
from bszo.perturb.noise import Terms


class Weighted(Directions):
    """w_p z_p: another family's directions, each parameter's part times its factor.

    Args:
        base: the family.
        weights: a factor for each parameter.
    """

    def __init__(self, base: Directions, weights: Sequence[float]) -> None:
        super().__init__(base.params)
        self.base, self.weights = base, list(weights)

    def own(self, index: int, terms: Terms) -> Terms:
        return self.base.own(index, terms)

    def direction(self, seed: int, index: int) -> Tensor:
        return self.weights[index] * self.base.direction(seed, index)

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

    def release(self) -> None:
        self.base.release()

    def _scaled(self, terms: Terms, index: int) -> Terms:
        return {seed: self.weights[index] * coefficient for seed, coefficient in terms.items()}
