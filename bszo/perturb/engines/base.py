"""Engine: the interface through which a closure comes to see perturbed parameters."""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from functools import cached_property
from typing import ClassVar

from bszo.perturb.directions.base import Directions
from bszo.perturb.engines.doubts import Doubts
from bszo.perturb.noise import Terms


class Engine(ABC):
    """A way to have the closure see theta + sum_i c_i z_i.

    Attributes:
        exact: whether theta is the same to the bit after a perturbed pass, so that a loss depends
            on its own point alone, whatever was measured before it.
    """

    exact: ClassVar[bool] = True

    @property
    def ready(self) -> bool:
        """Whether a pass is right as it is taken. Until then one may have to be taken again, and
        processes that share points must do so alike."""
        return True

    @cached_property
    def doubts(self) -> Doubts:
        """What this engine's losses have given reason to doubt; each is said once."""
        return Doubts()

    @abstractmethod
    def at(self, directions: Directions, terms: Terms) -> AbstractContextManager[None]:
        """While active, the parameters read theta + sum_i c_i z_i."""

    def home(self, directions: Directions) -> None:  # noqa: B027 - most engines never move theta
        """Bring theta to where the step began; an engine that never moves it has nothing to do."""

    def repair(self) -> bool:
        """Return whether the last pass was wrong. If so, the engine has mended the cause and the
        pass is to be taken again."""
        return False
