"""Cache of the models that were converted on this machine.

It is a folder outside of any repository, in which each model is named by its content.
"""

import os
import re
from pathlib import Path

from bszo.errors import ModelError

CACHED = "cache:"
DIGITS = 12  # of the SHA-256 of the file that a model was converted from


def cache_root() -> Path:
    """`$BSZO_CACHE/models`; without that variable `bszo/models` in `$XDG_CACHE_HOME` or `~/.cache`.

    Raises:
        ModelError: neither variable is set, and the user has no home.
    """
    if own := os.environ.get("BSZO_CACHE"):
        return Path(own) / "models"
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    except RuntimeError as error:
        raise ModelError(f"BSZO_CACHE: must name a folder, for {error}") from error
    return base / "bszo" / "models"


def cache_entry(name: str, digest: str) -> Path:
    """The folder of a model by its name and the SHA-256 of what it was converted from."""
    return cache_root() / digest[:DIGITS] / name


def cached(path: str) -> Path:
    """The folder of `cache:NAME@HEX`.

    Raises:
        ModelError: the path has another form, or the cache does not hold that model; the message
            says the command that puts it there.
    """
    found = re.fullmatch(rf"{CACHED}([\w.-]+)@([0-9a-f]{{{DIGITS}}})", path)
    if found is None or found[1].startswith("."):
        raise ModelError(
            f"model.path={path}: {CACHED}NAME@HEX is valid, with {DIGITS} hexadecimal digits"
        )
    folder = cache_entry(found[1], found[2])
    if not folder.is_dir():
        raise ModelError(
            f"model.path={path}: is not in the cache; this command puts it there: python -m"
            f" experiments.fetch {found[1]}"
        )
    return folder
