"""A task's constructor arguments as YAML gives them, made into plain tuples, dicts and dataclasses.

Each function raises ConfigError, in one line with the key, where the value cannot be that.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bszo.errors import ConfigError
from bszo.tasks.template import Template

# a path of this machine, which `datasets` would take, is none
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class Hub:
    """Where a data set lives on the Hugging Face hub; `name` is its configuration, `revision` its
    commit."""

    path: str
    name: str | None = None
    revision: str | None = None


def texts(value: Any, key: str) -> tuple[str, ...]:
    """A list of texts, none of them empty."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ConfigError(f"{key}={value!r}: must be a list of texts")
    for item in value:
        if not isinstance(item, str) or not item:
            raise ConfigError(
                f"{key}: {item!r} is no text (in YAML, quote Yes, No, true and numbers)"
            )
    return tuple(value)


def text_map(value: Any, key: str) -> dict[str, str]:
    """A mapping from texts to texts."""
    names = mapping(value, key)
    return dict(zip(texts(tuple(names), key), texts(tuple(names.values()), key), strict=True))


def mapping(value: Any, key: str) -> dict[Any, Any]:
    """Any mapping, as a dict."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{key}={value!r}: must be a mapping of names to values")
    return dict(value)


def hub(value: Any, key: str) -> Hub:
    """A Hub, or a mapping of its arguments."""
    found = (
        value
        if isinstance(value, Hub)
        else Hub(**_arguments(value, key, ("path",), ("name", "revision")))
    )
    for name in ("path", "name", "revision"):
        text = getattr(found, name)
        if text is not None and (
            not isinstance(text, str) or not _HUB_NAME.fullmatch(text) or ".." in text
        ):
            raise ConfigError(
                f"{key}.{name}={text!r:.80}: not a name on the hub (letters, digits, . _ - and"
                " one /)"
            )
    return found


def template(value: Any, key: str) -> Template:
    """A Template, or a mapping of its arguments."""
    if not isinstance(value, Template):
        given = _arguments(value, key, ("prompt", "options"), ("options_as_run",))
        value = Template(given["prompt"], given["options"], given.get("options_as_run") or ())
    if not isinstance(value.prompt, str) or not value.prompt:
        raise ConfigError(f"{key}.prompt={value.prompt!r}: must be a text")
    options = texts(value.options, f"{key}.options")
    return Template(value.prompt, options, texts(value.options_as_run, f"{key}.options_as_run"))


def _arguments(
    value: Any, key: str, needed: tuple[str, ...], optional: tuple[str, ...]
) -> dict[str, Any]:
    given = mapping(value, key)
    valid = ", ".join((*needed, *optional))
    for name in given:
        if name not in (*needed, *optional):
            raise ConfigError(f"{key}.{name}: no such key; valid: {valid}")
    for name in needed:
        if given.get(name) is None:
            raise ConfigError(f"{key}.{name} is missing; valid: {valid}")
    return given
