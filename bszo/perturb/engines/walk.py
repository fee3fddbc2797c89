"""Walks in place, as the methods' authors published them, with their rounding."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from torch import Tensor

from bszo.perturb.directions.base import Directions
from bszo.perturb.engines.base import Engine
from bszo.perturb.noise import Terms

Legs = Literal["two-leg", "three-leg", "in-place"]


class Walk(Engine):
    """The parameters go to theta + sum_i c_i z_i in place and come back, with a rounding at every
    leg.

    A two-leg walk adds c z before a loss and takes it off after it (BSZO as published). A three-leg
    walk goes from +eps z straight to -eps z, and home at the end (MeZO, HiZOO, LOZO as published).
    An in-place walk is a three-leg walk that goes from any point to any other in one pass with one
    rounding. In 16 bits none of them comes back to the same theta.
    """

    exact = False

    def __init__(self, params: list[Tensor], legs: Legs) -> None:
        self.params, self.legs = params, legs
        self.position: dict[int, float] = {}

    @contextmanager
    def at(self, directions: Directions, terms: Terms) -> Iterator[None]:
        if self.legs != "in-place" and terms.keys() != self.position.keys():
            self.home(directions)
        self._go(directions, terms)
        yield
        if self.legs == "two-leg":
            self.home(directions)

    def home(self, directions: Directions) -> None:
        """Walk back to where the step began."""
        self._go(directions, {})

    def _go(self, directions: Directions, terms: Terms) -> None:
        seeds = [*self.position, *(s for s in terms if s not in self.position)]
        leg = {s: terms.get(s, 0.0) - self.position.get(s, 0.0) for s in seeds}
        leg = {s: c for s, c in leg.items() if c != 0.0}
        for i, p in enumerate(self.params):
            own = directions.own(i, leg)
            if not own:
                continue
            if self.legs == "in-place":
                directions.shift(p.data, i, own, out=p.data)
                continue
            # z is cast to the parameter's type, as published (results/deviations.md, 32)
            for seed, c in own.items():
                p.data.add_(directions.direction(seed, i).to(p.dtype), alpha=c)
        self.position = dict(terms)
