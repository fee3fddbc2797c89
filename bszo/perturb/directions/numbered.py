"""Numbers of parameters that are not their places: the family of an optimizer that trains others
than it began with."""

from collections.abc import Sequence

from torch import Tensor

from bszo.perturb.directions.base import Directions
from bszo.perturb.noise import Terms


class Numbered(Directions):
    """Some of another family's parameters, in any order, each with the noise and the basis that it
    has there.

    Args:
        base: a family over all parameters that have a number, in the order of their numbers.
        numbers: of the parameters here; the i-th of these is the base's number numbers[i].
    """

    def __init__(self, base: Directions, numbers: Sequence[int]) -> None:
        super().__init__([base.params[n] for n in numbers])
        self.base, self.numbers = base, list(numbers)

    def own(self, index: int, terms: Terms) -> Terms:
        return self.base.own(self.numbers[index], terms)

    def direction(self, seed: int, index: int) -> Tensor:
        return self.base.direction(seed, self.numbers[index])

    def compressed(self, index: int) -> bool:
        return self.base.compressed(self.numbers[index])

    def coordinates(self, seed: int, index: int) -> Tensor:
        return self.base.coordinates(seed, self.numbers[index])

    def expand(self, coordinates: Tensor, index: int) -> Tensor:
        return self.base.expand(coordinates, self.numbers[index])

    def carry(self, coordinates: Tensor, index: int, old: Directions) -> Tensor:
        old = old.base if isinstance(old, Numbered) else old
        return self.base.carry(coordinates, self.numbers[index], old)

    def has_factors(self, index: int) -> bool:
        return self.base.has_factors(self.numbers[index])

    def factors(self, seed: int, index: int) -> tuple[Tensor, Tensor] | None:
        return self.base.factors(seed, self.numbers[index])

    def stacks(self, seeds: Sequence[int], index: int) -> tuple[Tensor, Tensor] | None:
        return self.base.stacks(seeds, self.numbers[index])

    def left_rows(
        self, seeds: Sequence[int], index: int, rows: Tensor, of: Tensor
    ) -> Tensor | None:
        return self.base.left_rows(seeds, self.numbers[index], rows, of)

    def right(self, seeds: Sequence[int], index: int) -> Tensor | None:
        return self.base.right(seeds, self.numbers[index])

    def vectors(self, seeds: Sequence[int], index: int) -> Tensor | None:
        return self.base.vectors(seeds, self.numbers[index])

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
            theta, self.numbers[index], terms, decay=decay, out=out, rounding_seed=rounding_seed
        )

    def shift_rows(self, theta: Tensor, index: int, rows: Tensor, terms: Terms) -> Tensor:
        return self.base.shift_rows(theta, self.numbers[index], rows, terms)

    def singly(self) -> Directions:
        return Numbered(self.base.singly(), self.numbers)

    def release(self) -> None:
        self.base.release()
