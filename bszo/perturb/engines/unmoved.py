"""Unmoved: the engine for losses that come from a log, where no module reads a parameter."""

from collections.abc import Iterator
from contextlib import contextmanager

from bszo.perturb.directions.base import Directions
from bszo.perturb.engines.base import Engine
from bszo.perturb.noise import Terms


class Unmoved(Engine):
    """Theta stays, for nobody looks at it."""

    @contextmanager
    def at(self, directions: Directions, terms: Terms) -> Iterator[None]:
        yield
