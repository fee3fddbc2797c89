"""Privacy of what is published: absolute paths, secrets and the names of a user or a machine are
taken out of a text (docs/threats.md, "A record that tells who made it")."""

import os
import platform
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_PART = r"[^\s'\",;:=()\[\]{}/\\]"
_ABSOLUTE = re.compile(
    rf"(?<![\w.~/:)\]}}<-])(?:~[^\s/\\]*|[A-Za-z]:(?=\\))?(?:[/\\]+{_PART}*)*[/\\]+({_PART}+)"
)
_SECRET = re.compile("KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
LEAST_SECRET = 8  # characters; shorter values occur in many texts by chance
COMMON = ("root", "localhost")  # names that tell nothing about anybody


def scrub(text: str) -> str:
    """The text without secrets, its absolute paths cut to their last names.

    `/home/me/x.json` becomes `.../x.json`.
    A secret is the value of an environment variable whose name says so, such as `API_KEY`.
    """
    return _without(text, _secrets())


def anonymous(text: str) -> str:
    """The text as `scrub` leaves it, also without the names of the user, the home and the machine
    where they stand as words of their own."""
    text = scrub(text)
    for name in _own_names():
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "...", text)
    return text


def folder_name(path: Path) -> str:
    """The last name of a path; "folder" where that is the name of the user, home or machine."""
    name = path.resolve().name
    return "folder" if name in _own_names() else name


def _own_names() -> list[str]:
    """The names that would tell who runs this and where, the longest first: the host's full name
    must be taken out before its first part."""
    host = platform.node()
    names = {os.environ.get(key, "") for key in ("USER", "LOGNAME", "USERNAME")} | {
        host,
        host.split(".")[0],
    }
    names |= {Path(os.environ.get("HOME", "")).name}
    return sorted(names - {"", *COMMON}, key=len, reverse=True)


def scrub_all(value: Any) -> Any:
    """The same structure of mappings and lists, with `scrub` applied to every string in it."""
    secrets = _secrets()  # read once: a record has some hundred strings

    def scrubbed(value: Any) -> Any:
        if isinstance(value, str):
            return _without(value, secrets)
        if isinstance(value, Mapping):
            return {key: scrubbed(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [scrubbed(item) for item in value]
        return value

    return scrubbed(value)


def _secrets() -> list[str]:
    return [
        value
        for name, value in os.environ.items()
        if len(value) >= LEAST_SECRET and _SECRET.search(name)
    ]


def _without(text: str, secrets: Iterable[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "...")
    return _ABSOLUTE.sub(r".../\1", text)
