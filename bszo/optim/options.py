"""Options: the keyword arguments that all zeroth-order optimizers share, and the checks and types
that go with them."""

from collections.abc import Iterable
from typing import Any, Literal, TypedDict

import torch
from torch import Tensor, nn

from bszo.errors import OptimError
from bszo.perturb import DirectionFunction, Perturbation

Params = Iterable[Tensor] | Iterable[dict[str, Any]]
Rounding = Literal["nearest", "stochastic"]
StateDtype = Literal["float32", "parameter"]


class Options(TypedDict, total=False):
    """Keyword arguments that every zeroth-order optimizer takes; `ZerothOrderOptimizer` says what
    each means."""

    weight_decay: float
    seed: int
    module: nn.Module | None
    directions: DirectionFunction | None
    rounding: Rounding


class DifferenceOptions(Options, total=False):
    """The same of an optimizer that takes differences of losses."""

    eps: float
    perturbation: Perturbation


class OwnLengthOptions(Options, total=False):
    """The same of one that names its own default of eps."""

    perturbation: Perturbation


def require(condition: bool, message: str) -> None:
    """Raise OptimError with the message unless the condition holds; NaN fails every comparison."""
    if not condition:
        raise OptimError(message)


def dtype_of_state(p: Tensor, state_dtype: StateDtype) -> torch.dtype:
    """The type in which a moment or curvature of this parameter is kept."""
    return torch.float32 if state_dtype == "float32" else p.dtype


def require_failed(failed: bool, step: int) -> None:
    """OptimError unless the last step raised NonFiniteLoss, which alone may be skipped."""
    require(failed, f"skip() at step {step}: only a step that raised NonFiniteLoss can be skipped")
