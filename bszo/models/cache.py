"""Models of the cache: those that were converted on this machine, each named by its content."""

import re
from pathlib import Path

from bszo.cache import cache_folder
from bszo.errors import ModelError

CACHED = "cache:"
DIGITS = 12  # of the SHA-256 of the file that a model was converted from


def cache_root() -> Path:
    """The models' part of the cache.

    Raises:
        ModelError: no variable names the cache, and the user has no home.
    """
    try:
        return cache_folder() / "models"
    except RuntimeError as error:
        raise ModelError(f"BSZO_CACHE: must name a folder, for {error}") from error


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
