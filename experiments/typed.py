"""Values held against types and signatures, with one line for whatever does not fit."""

import importlib
import inspect
import json
import math
import typing
from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass
from typing import Any

from pydantic import PydanticSchemaGenerationError, TypeAdapter, ValidationError

from bszo.errors import ConfigError
from experiments.hints import did_you_mean

ALLOWED_TARGETS = ("bszo.", "torch.optim.")


def typed(kind: Any, value: Any, key: str) -> Any:
    """`value` as `kind`, strictly (no "3" for 3, no true for 1; a JSON list stands for a tuple)."""
    try:
        adapter = TypeAdapter(kind)
    except PydanticSchemaGenerationError:  # the type of an object that no config file can write down
        return value
    try:
        return adapter.validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        raise ConfigError(_one_line(error, key, kind)) from error


def _one_line(error: ValidationError, key: str, kind: Any) -> str:
    """The first problem of a pydantic error: key, value, what would be valid."""
    problems = error.errors(include_url=False)
    first = problems[0]
    path = [str(part) for part in first["loc"]]
    if first["type"] == "unexpected_keyword_argument":
        return f"{dotted(key, path)}: no such key{did_you_mean(path[-1], _keys_at(kind, path[:-1]))}"
    if first["type"] in ("missing", "missing_argument"):
        return f"{dotted(key, path)}: this key is missing"
    if is_dataclass(kind):
        names = _keys_at(kind, path[:1])
        path = path[: 2 if names else 1]
    else:
        path = []  # what follows is pydantic's name for a member of a union
    same = [item["msg"] for item in problems if [str(part) for part in item["loc"]][: len(path)] == path]
    wants = " or ".join(dict.fromkeys(message.removeprefix("Input ") for message in same))
    return f"{dotted(key, path)}={first['input']!r}: {wants}"


def _keys_at(kind: Any, path: list[str]) -> list[str]:
    """The field names of the dataclass found by following `path` down from `kind`."""
    for part in path:
        kind = typing.get_type_hints(kind).get(part) if is_dataclass(kind) else None
    return list(kind.__dataclass_fields__) if is_dataclass(kind) else []


def dotted(key: str, path: Iterable[str]) -> str:
    return ".".join(part for part in (key, *path) if part)


def check_finite(value: Any, key: str = "") -> None:
    """Refuse NaN and infinity anywhere: neither trains, and JSON has neither.

    Raises:
        ConfigError: naming the key.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{key}={value}: must be a finite number")
    items = (
        value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    )
    for name, item in items:
        check_finite(item, dotted(key, [str(name)]))


def check_targets(value: Any, key: str = "") -> None:
    """Refuse any `_target_` outside bszo and torch.optim, however deep: a shared file must not run code.

    Raises:
        ConfigError: naming the key.
    """
    if isinstance(value, Mapping):
        target = value.get("_target_")
        if "_target_" in value and not (isinstance(target, str) and target.startswith(ALLOWED_TARGETS)):
            at = dotted(key, ["_target_"])
            raise ConfigError(f"{at}={target!r}: only bszo.* and torch.optim.* may be built")
        for name, item in value.items():
            check_targets(item, dotted(key, [str(name)]))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            check_targets(item, dotted(key, [str(index)]))


def locate(target: str, key: str) -> Any:
    """The public class or function that a `_target_` names.

    Raises:
        ConfigError: it does not exist, or is private, or is a module met on the way (`bszo.tasks.os.system`).
    """
    module_name, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{key}._target_={target!r}: there is no such class or function") from error
    home = getattr(found, "__module__", "") or ""
    if name.startswith("_") or not callable(found) or not f"{home}.".startswith(ALLOWED_TARGETS):
        raise ConfigError(f"{key}._target_={target!r}: only bszo.* and torch.optim.* may be built")
    return found


def check_arguments(node: Mapping[str, Any], key: str, supplied: Iterable[str] = ()) -> None:
    """Hold a `_target_` node against its constructor's signature: names, required ones, types.

    Raises:
        ConfigError: the first argument that does not fit, with what would.
    """
    if "_target_" not in node:
        raise ConfigError(f"{key}: has no _target_")
    built = locate(node["_target_"], key)
    parameters = inspect.signature(built).parameters
    hints = typing.get_type_hints(built.__init__ if inspect.isclass(built) else built)
    names = [name for name, p in parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    settable = [name for name in names if name not in supplied]
    for name, value in node.items():
        if name in ("_target_", "_partial_"):
            continue
        if name not in settable:
            raise ConfigError(f"{key}.{name}: no such key{did_you_mean(str(name), settable)}")
        at = f"{key}.{name}"
        if isinstance(value, Mapping) and "_target_" in value:
            check_arguments(value, at, ("params",))
        elif name in hints:
            if is_dataclass(hints[name]) and isinstance(value, Mapping):
                _check_fields(hints[name], value, at)
            typed(hints[name], value, at)
    for name in settable:
        required = parameters[name].default is inspect.Parameter.empty
        if name not in node and required and not node.get("_partial_"):
            raise ConfigError(f"{key}.{name}: this key is missing")


def _check_fields(kind: Any, value: Mapping[str, Any], key: str) -> None:
    """pydantic passes over keys that a dataclass of the library does not have."""
    for name in value:
        if name not in _keys_at(kind, []):
            raise ConfigError(f"{key}.{name}: no such key{did_you_mean(str(name), _keys_at(kind, []))}")
