"""Types of a configuration's values: they are checked against dataclasses and signatures, with one
line for what does not fit."""

import inspect
import json
import math
import re
import typing
from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass
from functools import lru_cache
from typing import Any

from pydantic import PydanticSchemaGenerationError, TypeAdapter, ValidationError

from bszo.errors import ConfigError
from experiments.config.messages import did_you_mean, who_has
from experiments.config.targets import buildable

MOST_INT = 2**63 - 1
_NO_TEXT = re.compile("[\0\ud800-\udfff]")


def typed(kind: Any, value: Any, key: str) -> Any:
    """`value` as `kind`, strictly (no "3" for 3, no true for 1; a JSON list stands for a tuple)."""
    adapter = _adapter(kind, repr(kind))
    if adapter is None:
        return value
    try:
        return adapter.validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        raise ConfigError(_one_line(error, key, kind, value)) from error


@lru_cache(maxsize=1024)
def _adapter(kind: Any, spelt: str) -> TypeAdapter[Any] | None:
    """What checks values of a type; None for one that no config file can write down.

    Args:
        kind: the type.
        spelt: how it is written: unions of the same types in another order are equal, and their
            messages are not.
    """
    try:
        return TypeAdapter(kind)
    except PydanticSchemaGenerationError:
        return None


def _one_line(error: ValidationError, key: str, kind: Any, value: Any) -> str:
    """The first problem of a pydantic error, with the key, its value and what would be valid."""
    problems = error.errors(include_url=False)
    first = problems[0]
    path = _as_written(first["loc"], value)
    if first["type"] == "unexpected_keyword_argument":
        return (
            f"{dotted(key, path)}: no such key{did_you_mean(path[-1], _keys_at(kind, path[:-1]))}"
        )
    if first["type"] in ("missing", "missing_argument"):
        return f"{dotted(key, path)}: this key is missing"
    if is_dataclass(kind):
        names = _keys_at(kind, path[:1])
        path = path[: 2 if names else 1]
    else:
        path = []  # what follows is pydantic's name for a member of a union
    same = [
        item["msg"] for item in problems if _as_written(item["loc"], value)[: len(path)] == path
    ]
    wants = " or ".join(dict.fromkeys(message.removeprefix("Input ") for message in same))
    quotes = _quotes(first["input"]) if first["type"] == "string_type" else ""
    return f"{dotted(key, path)}={first['input']!r}: {wants}{quotes}"


def _quotes(value: Any) -> str:
    """What to write for a text that YAML reads as something else."""
    if isinstance(value, bool):
        words = "yes, on and true as true" if value else "no, off and false as false"
        return f"; YAML reads {words} where they have no quotes: write '{'yes' if value else 'no'}'"
    if isinstance(value, (int, float)):
        return f"; write '{value}' in quotes"
    if isinstance(value, Mapping):
        return "; YAML reads braces without quotes as a mapping: write '{column}' in quotes"
    return ""


def _as_written(loc: Iterable[Any], value: Any) -> list[str]:
    """A place in `value` by its own keys, without pydantic's names for members of a union; a
    missing key is last."""
    path, last = [], None
    for part in loc:
        items: Any = (
            value
            if isinstance(value, Mapping)
            else range(len(value))
            if isinstance(value, list)
            else ()
        )
        last = None if part in items else part
        if part in items:
            path.append(str(part))
            value = value[part]
    return [*path, str(last)] if last is not None and isinstance(value, Mapping) else path


def _keys_at(kind: Any, path: list[str]) -> list[str]:
    """The field names of the dataclass, or the dataclasses of a union, found by following `path`
    down from `kind`."""
    for part in path:
        kind = typing.get_type_hints(kind).get(part) if is_dataclass(kind) else None
    members = (
        [kind]
        if is_dataclass(kind)
        else [member for member in typing.get_args(kind) if is_dataclass(member)]
    )
    return list(dict.fromkeys(name for member in members for name in member.__dataclass_fields__))


def dotted(key: str, path: Iterable[str]) -> str:
    return ".".join(part for part in (key, *path) if part)


def check_values(value: Any, key: str = "") -> None:
    """Refuse, anywhere, what no record and no generator can hold (docs/threats.md, "A value that no
    run can have").

    NaN and infinity (JSON has neither), whole numbers beyond 64 bits, texts with a NUL or half a
    surrogate pair (what Python makes of bytes that are not UTF-8).

    Raises:
        ConfigError: naming the key.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{key}={value}: must be a finite number")
    if isinstance(value, int) and abs(value) > MOST_INT:
        raise ConfigError(f"{key}={value!s:.40}: must be a whole number of at most 64 bits")
    if isinstance(value, str) and _NO_TEXT.search(value):
        raise ConfigError(
            f"{key}={value!r:.80}: must be a text, without NUL and bytes that are not UTF-8"
        )
    items = (
        value.items()
        if isinstance(value, Mapping)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for name, item in items:
        at = dotted(key, [str(name).encode("unicode_escape").decode()])
        check_values(name, f"{at} (the key)")
        check_values(item, at)


def check_targets(value: Any, key: str = "") -> None:
    """Refuse any `_target_` that has no role where it stands, however deep: a shared file must not
    run code.

    Raises:
        ConfigError: naming the key.
    """
    if isinstance(value, Mapping):
        if "_target_" in value:
            locate(value["_target_"], key)
        for name, item in value.items():
            check_targets(item, dotted(key, [str(name)]))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            check_targets(item, dotted(key, [str(index)]))


def locate(target: Any, key: str) -> Any:
    """The class or function that the `_target_` of the node at `key` names.

    Raises:
        ConfigError: it is none that may be built there, with those that may.
    """
    valid = buildable(key)
    if isinstance(target, str) and target in valid:
        return valid[target]
    what = (
        f"{dotted(key, ['_target_'])}={target!r:.80}: only bszo's own and torch.optim's may be"
        " built, where they fit"
    )
    raise ConfigError(what + did_you_mean(str(target)[:80], valid))


def check_arguments(node: Mapping[str, Any], key: str, supplied: Iterable[str] = ()) -> None:
    """Hold a `_target_` node against its constructor's signature: names, required ones, types.

    Raises:
        ConfigError: the first argument that does not fit, with what would.
    """
    if "_target_" not in node:
        raise ConfigError(f"{key}: has no _target_")
    built = locate(node["_target_"], key)
    # parameters come when the model is there
    if node.get("_partial_", False) is not ("params" in supplied):
        raise ConfigError(
            f"{key}._partial_: must be {'true' if 'params' in supplied else 'left out'}"
        )
    parameters = inspect.signature(built).parameters
    hints = typing.get_type_hints(built.__init__ if inspect.isclass(built) else built)
    # arguments that an optimizer shares with its kind stand in its signature alone
    hints |= {
        name: p.annotation
        for name, p in parameters.items()
        if name not in hints and p.annotation is not p.empty
    }
    names = [
        name for name, p in parameters.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    settable = [name for name in names if name not in supplied]
    for name, value in node.items():
        if name in ("_target_", "_partial_"):
            continue
        if name not in settable:
            at = f"{key}.{name}"
            raise ConfigError(f"{at}: no such key{did_you_mean(str(name), settable)}{who_has(at)}")
        at = f"{key}.{name}"
        if isinstance(value, Mapping) and "_target_" in value:
            check_arguments(value, at, ("params",))
        elif name in hints:
            if is_dataclass(hints[name]) and isinstance(value, Mapping):
                _check_fields(hints[name], value, at)
            typed(hints[name], value, at)
    for name in settable:
        if name not in node and parameters[name].default is inspect.Parameter.empty:
            raise ConfigError(f"{key}.{name}: this key is missing")


def _check_fields(kind: Any, value: Mapping[str, Any], key: str) -> None:
    """pydantic passes over keys that a dataclass of the library does not have."""
    for name in value:
        if name not in _keys_at(kind, []):
            raise ConfigError(
                f"{key}.{name}: no such key{did_you_mean(str(name), _keys_at(kind, []))}"
            )
