"""The choice of an engine by its name."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from bszo.errors import OptimError
from bszo.perturb.engines.base import Engine
from bszo.perturb.engines.by_factors import ByFactors
from bszo.perturb.engines.copies import Copies
from bszo.perturb.engines.streaming import Streaming
from bszo.perturb.engines.walk import Legs, Walk

Perturbation = Literal[
    "exact", "streaming", "factored", "copy", "two-leg", "three-leg", "in-place", "as-published"
]

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def engine_class(perturbation: Perturbation, module: nn.Module | None) -> type[Engine]:
    """Return the class of the engine that a name means.

    "as-published" is the walk of the method's authors; "exact" is streaming where there is a module
    and copies where there is none.
    """
    if perturbation in ("as-published", "two-leg", "three-leg", "in-place"):
        return Walk
    if perturbation == "factored":
        return ByFactors
    return Streaming if module is not None and perturbation != "copy" else Copies


def make_engine(
    perturbation: Perturbation, params: list[Tensor], module: nn.Module | None, published: Legs
) -> Engine:
    """Return the engine of that name (see `engine_class`). Without a module, streaming and factored
    are copies too.

    Args:
        perturbation: the name.
        params: all parameters, in the optimizer's order.
        module: the module that the closure runs, or None.
        published: the walk that "as-published" stands for.

    Raises:
        OptimError: a parameter is one that no engine can move.
    """
    require_movable(params)
    how = published if perturbation == "as-published" else perturbation
    engine: Engine
    if how in ("two-leg", "three-leg", "in-place"):
        engine = Walk(params, how)
    elif module is not None and how == "factored":
        engine = ByFactors(params, module)
    elif module is not None and engine_class(how, module) is Streaming:
        engine = Streaming(params, module)
    else:
        engine = Copies(params, list(range(len(params))))
    return engine


def require_movable(params: Sequence[Tensor]) -> None:
    """Raise OptimError for a parameter that has no values here, or none that are real floats."""
    for i, p in enumerate(params):
        named = f"params: parameter {i} of shape {tuple(p.shape)}"
        if p.is_meta:
            raise OptimError(
                f"{named} is on the meta device (offloaded, or not loaded), so that it has no"
                " values to move; a model that lies on a CPU or GPU is valid"
            )
        if p.is_complex():
            raise OptimError(
                f"{named} is {str(p.dtype).removeprefix('torch.')}, and directions are real;"
                " torch.view_as_real of it as the parameter is valid"
            )
        if p.dtype not in FLOATS:
            raise OptimError(
                f"{named} is {str(p.dtype).removeprefix('torch.')}; float64, float32, bfloat16 and"
                " float16 are valid"
            )
