"""Serialization of nested Python values as JSON and named tensors.

Every type comes back as it was. No pickle is used, so that no code can hide in a checkpoint.
"""

import math
from typing import Any

from torch import Tensor

from bszo.errors import BszoError


class CheckpointError(BszoError):
    """A checkpoint that cannot be written or is not sound."""


def pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The JSON form of a value; its tensors go into `tensors` under names of their own.

    Raises:
        CheckpointError: something in it is neither plain nor a tensor.
    """
    if isinstance(value, Tensor):
        name = f"state.{len(tensors)}"
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, dict):  # as pairs: JSON would turn the keys 0, 1, ... into text
        return {"dict": [[pack(key, tensors), pack(item, tensors)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [pack(item, tensors) for item in value]}
    if isinstance(value, list):
        return [pack(item, tensors) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise CheckpointError(
        f"a run's state holds {type(value).__name__} {value!s:.40}, which no checkpoint can hold"
    )


def unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """What `pack` was given. Raises KeyError, TypeError or ValueError for what it never made."""
    if isinstance(value, list):
        return [unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind == "tensor":
        return tensors[inner]
    if kind == "float":
        return float(inner)
    if kind == "tuple":
        return tuple(unpack(item, tensors) for item in inner)
    if kind == "dict":
        return {unpack(key, tensors): unpack(item, tensors) for key, item in inner}
    raise ValueError(f"no such kind of value: {kind!s:.40}")
