"""Options: the keyword arguments that all zeroth-order optimizers share, and the checks and types
that go with them."""

import logging
from collections.abc import Iterable
from typing import Any, Literal, TypedDict

import torch
from torch import Tensor, nn

from bszo.errors import OptimError
from bszo.perturb import DirectionFunction, Perturbation

log = logging.getLogger(__name__)

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


def require_rank_read(law: str, rank: int) -> None:
    """OptimError for the rank of directions that have none."""
    require(
        law == "low-rank" or rank == 1,
        f"rank={rank}: directions of law={law!r} have none; 1 is valid, or law='low-rank'",
    )


def say_short_moments(params: Iterable[Tensor], state_dtype: StateDtype) -> None:
    """Say that second moments in fp16 are lost where the first are not."""
    if state_dtype == "parameter" and any(p.dtype == torch.float16 for p in params):
        log.warning(
            "state_dtype='parameter': in float16 the square of a slope below 5e-3 becomes 0, and"
            " where it does a step may be 10^5 times lr long; 'float32' has no such steps"
        )


def require_failed(failed: bool, step: int) -> None:
    """OptimError unless the last step raised NonFiniteLoss, which alone may be skipped."""
    require(failed, f"skip() at step {step}: only a step that raised NonFiniteLoss can be skipped")
