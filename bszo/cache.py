"""Cache of what was made once on this machine: converted models, compiled kernels.

It is a folder outside of any repository, in which each thing is named by its content.
"""

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$BSZO_CACHE`; without that variable `bszo` in `$XDG_CACHE_HOME` or `~/.cache`.

    Raises:
        RuntimeError: neither variable is set, and the user has no home.
    """
    if own := os.environ.get("BSZO_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "bszo"
