"""Ways to have a closure see perturbed parameters, and which of them a name means."""

from contextlib import AbstractContextManager
from typing import Literal, Protocol

from torch import Tensor, nn

from bszo.perturb.directions import Directions
from bszo.perturb.inplace import Copies, Legs, Walk
from bszo.perturb.noise import Terms
from bszo.perturb.streaming import Streaming

Perturbation = Literal[
    "exact", "streaming", "copy", "two-leg", "three-leg", "in-place", "as-published"
]


class Engine(Protocol):
    """A way to have the closure see theta + sum_i c_i z_i."""

    def at(self, directions: Directions, terms: Terms) -> AbstractContextManager[None]: ...

    def home(self, directions: Directions) -> None: ...


def make_engine(
    perturbation: Perturbation, params: list[Tensor], module: nn.Module | None, published: Legs
) -> Streaming | Copies | Walk:
    """The engine of that name: as-published is the walk of the method's authors, exact is streaming
    where there is a module and copy where there is none."""
    how = published if perturbation == "as-published" else perturbation
    if how in ("two-leg", "three-leg", "in-place"):
        return Walk(params, how)
    if module is not None and how != "copy":
        return Streaming(params, module)
    return Copies(params, list(range(len(params))))
