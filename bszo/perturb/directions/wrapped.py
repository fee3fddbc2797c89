"""Wrapped: the base of a family that changes another family's directions."""

from collections.abc import Sequence
from copy import copy
from typing import Self

from torch import Tensor

from bszo.perturb.directions.base import Directions
from bszo.perturb.noise import Terms


class Wrapped(Directions):
    """z' = D z, with z from another family and D linear; or D z plus a constant, where the other
    family's coordinates are z itself.

    This class forwards the interface, but for whole shifts, which it makes from directions, so that
    a wrapper that changes nothing is the family that it wraps. A wrapper says in `changed` what D
    does to a tensor of one parameter's shape.

    Coordinates stay as short as the base family's: where these are not z itself (U of U V^T, say)
    they name z, and `expand` applies D; where they are z, they are D z and `expand` has nothing to
    do. In both cases expand(coordinates(seed)) is direction(seed).

    Args:
        base: the family whose directions are changed.
    """

    def __init__(self, base: Directions) -> None:
        super().__init__(base.params)
        self.base = base

    def changed(self, z: Tensor, index: int) -> Tensor:
        """Return D z for a tensor z of the parameter's shape."""
        return z

    def own(self, index: int, terms: Terms) -> Terms:
        return self.base.own(index, terms)

    def direction(self, seed: int, index: int) -> Tensor:
        return self.changed(self.base.direction(seed, index), index)

    def compressed(self, index: int) -> bool:
        return self.base.compressed(index)

    def coordinates(self, seed: int, index: int) -> Tensor:
        found = self.base.coordinates(seed, index)
        return found if self.compressed(index) else self.changed(found, index)

    def expand(self, coordinates: Tensor, index: int) -> Tensor:
        found = self.base.expand(coordinates, index)
        return self.changed(found, index) if self.compressed(index) else found

    def carry(self, coordinates: Tensor, index: int, old: Directions) -> Tensor:
        return self.base.carry(coordinates, index, unwrapped(old))

    def has_factors(self, index: int) -> bool:
        """False: what D makes of a product need not be one. A wrapper whose D leaves it one says
        so, here and below."""
        return False

    def factors(self, seed: int, index: int) -> tuple[Tensor, Tensor] | None:
        return None

    def stacks(self, seeds: Sequence[int], index: int) -> tuple[Tensor, Tensor] | None:
        return None

    def left_rows(
        self, seeds: Sequence[int], index: int, rows: Tensor, of: Tensor
    ) -> Tensor | None:
        return None

    def right(self, seeds: Sequence[int], index: int) -> Tensor | None:
        return None

    def vectors(self, seeds: Sequence[int], index: int) -> Tensor | None:
        return None

    def singly(self) -> Self:
        single = copy(self)
        single.base = self.base.singly()
        return single

    def release(self) -> None:
        super().release()
        self.base.release()

    # `shift`, `shift_rows` and `shift_all_` are those of Directions, which ask `direction`, and
    # `scalars` is None: the base's shifts and numbers know nothing of D. A wrapper whose D can be
    # put into them overrides these.


def unwrapped(family: Directions) -> Directions:
    """Return the innermost family, which draws z."""
    while isinstance(family, Wrapped):
        family = family.base
    return family
