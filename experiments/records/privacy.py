"""Privacy of what is published: absolute paths, secrets and the names of a user or a machine are
taken out of a text (docs/threats.md, "A record that tells who made it")."""

import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_PART = r"[^\s'\",;:=()\[\]{}/\\]"
_ABSOLUTE = re.compile(
    rf"(?<![\w.~/:)\]}}-])(?:~[^\s/\\]*|[A-Za-z]:(?=\\))?(?:[/\\]+{_PART}*)*[/\\]+({_PART}+)"
)
_SECRET = re.compile("KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
LEAST_SECRET = 8  # characters; shorter values stand in any text by chance
COMMON = ("root", "localhost")  # names of nobody


def scrub(text: str) -> str:
    """The text with every absolute path cut to its last name (`/home/me/x.json` becomes
    `.../x.json`), and no secret.

    A secret is the value of an environment variable that is called one.
    """
    for name, value in os.environ.items():
        if len(value) >= LEAST_SECRET and _SECRET.search(name):
            text = text.replace(value, "...")
    return _ABSOLUTE.sub(r".../\1", text)


def anonymous(text: str) -> str:
    """`scrub`, and no user's, home's or machine's name as a word of its own."""
    text = scrub(text)
    for name in _own_names():
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "...", text)
    return text


def folder_name(path: Path) -> str:
    """The last name of a path, unless it is a name of whose path it is."""
    name = path.resolve().name
    return "folder" if name in _own_names() else name


def _own_names() -> list[str]:
    """What tells who runs this, and where; the host's full name before its first part."""
    host = platform.node()
    names = {os.environ.get(key, "") for key in ("USER", "LOGNAME", "USERNAME")} | {
        host,
        host.split(".")[0],
    }
    names |= {Path(os.environ.get("HOME", "")).name}
    return sorted(names - {"", *COMMON}, key=len, reverse=True)


def scrub_all(value: Any) -> Any:
    """`scrub` on every string inside a plain structure."""
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, Mapping):
        return {key: scrub_all(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [scrub_all(item) for item in value]
    return value
