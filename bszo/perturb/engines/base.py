"""The interface of an engine: how a closure comes to see perturbed parameters."""

from contextlib import AbstractContextManager
from typing import Protocol

from bszo.perturb.directions.base import Directions
from bszo.perturb.noise import Terms


class Engine(Protocol):
    """A way to have the closure see theta + sum_i c_i z_i."""

    def at(self, directions: Directions, terms: Terms) -> AbstractContextManager[None]: ...

    def home(self, directions: Directions) -> None: ...
