"""Copies: the exact engine for closures without a module."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from bszo.perturb.directions.base import Directions
from bszo.perturb.engines.base import Engine
from bszo.perturb.noise import Terms


class Copies(Engine):
    """theta + sum_i c_i z_i is built in a second buffer, and theta comes back by pointer.

    Extra memory: one copy of the parameters that are listed, while a perturbed loss is taken.

    Args:
        params: all parameters, in the optimizer's order.
        indices: the numbers of those that this engine perturbs.
    """

    def __init__(self, params: list[Tensor], indices: list[int]) -> None:
        self.params, self.indices = params, indices

    @contextmanager
    def at(self, directions: Directions, terms: Terms) -> Iterator[None]:
        if not terms:
            yield
            return
        kept = {i: self.params[i].data for i in self.indices if directions.own(i, terms)}
        try:
            for i, theta in kept.items():
                self.params[i].data = directions.shift(theta, i, terms)
            yield
        finally:
            for i, theta in kept.items():
                self.params[i].data = theta
