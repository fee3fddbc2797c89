"""Targets: what a configuration may build, by role (docs/threats.md, "A YAML file that names Python
objects").

They are public names of the library that a run has a use for, and nothing else.
"""

import importlib
import inspect
import typing
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch

from bszo.models import LanguageModel
from bszo.tasks import Source, Task


def _optimizer(value: Any) -> bool:
    """A complete one: not the base that every method fills in."""
    derived = inspect.isclass(value) and issubclass(value, torch.optim.Optimizer)
    open_ended = getattr(getattr(value, "estimate", None), "__isabstractmethod__", False)
    return derived and not open_ended and value is not torch.optim.Optimizer


def _loader(value: Any) -> bool:
    if not inspect.isfunction(value):
        return False
    takes = set(inspect.signature(value).parameters)
    return (
        typing.get_type_hints(value).get("return") is LanguageModel
        and {"path", "dtype", "device"} <= takes
    )


def _task(value: Any) -> bool:
    return inspect.isclass(value) and issubclass(value, Task)


def _source(value: Any) -> bool:
    return inspect.isclass(value) and callable(getattr(value, "rows", None)) and value is not Source


# packages, each with what of its public names fits
Role = tuple[tuple[str, Callable[[Any], bool]], ...]
ROLES: dict[str, Role] = {
    "model": (("bszo.models", _loader),),
    "task": (("bszo.tasks", _task),),
    "data": (("bszo.tasks", _source),),
    "optimizer": (("bszo", _optimizer),),
    "optimizer.": (("bszo", _optimizer), ("torch.optim", _optimizer)),  # what an optimizer is given
}


@cache
def buildable(key: str) -> Mapping[str, Any]:
    """Dotted name -> object, of all that may be built at this key of the configuration; none where
    nothing may."""
    group, inside, _ = key.partition(".")
    found = {}
    for package, fits in ROLES.get(group + inside, ()):
        module = importlib.import_module(package)
        names = getattr(module, "__all__", None) or [
            name for name in vars(module) if not name.startswith("_")
        ]
        found |= {
            f"{package}.{name}": getattr(module, name)
            for name in names
            if fits(getattr(module, name))
        }
    return found
