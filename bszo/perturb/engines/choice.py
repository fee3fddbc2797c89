"""The choice of an engine by its name."""

from typing import Literal

from torch import Tensor, nn

from bszo.perturb.engines.copies import Copies
from bszo.perturb.engines.streaming import Streaming
from bszo.perturb.engines.walk import Legs, Walk

Perturbation = Literal[
    "exact", "streaming", "copy", "two-leg", "three-leg", "in-place", "as-published"
]


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
