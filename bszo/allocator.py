"""Memory that is freed: kept for what comes next, or given back to the system.

A forward pass on a CPU asks for a few megabytes at a time and frees them at once. glibc gives such
memory back to the system and is given it anew, in pages that the system fills with zeros first:
a tenth of the time of a pass of 100 million parameters. Both functions do nothing but on Linux with
glibc, where both hold for the whole process; they change no value.
"""

import ctypes
import os
import sys
from typing import Any

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # the names of two settings, in glibc's malloc.h
KEPT = 256 * 2**20  # bytes that stay at the heap's end
LARGEST = 32 * 2**20  # bytes; a larger piece comes from the system and goes back to it
CHOSEN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")  # by which a user says otherwise


def keep_freed_memory() -> bool:
    """Have the C library keep what is freed: pieces of 32 MB and less, 256 MB at the heap's end.

    The most that the process ever holds is what it was. What the user has set in
    `MALLOC_TRIM_THRESHOLD_`, `MALLOC_MMAP_THRESHOLD_` or for malloc in `GLIBC_TUNABLES` stays.

    Returns:
        Whether it does.

    Example:
        >>> from bszo.allocator import keep_freed_memory
        >>> keep_freed_memory() in (True, False)  # by the system
        True
    """
    said = any(name in os.environ for name in CHOSEN)
    if said or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    set_to: Any = _of_glibc("mallopt")
    return set_to is not None and all(
        set_to(*choice) for choice in ((MMAP_THRESHOLD, LARGEST), (TRIM_THRESHOLD, KEPT))
    )


def give_back_freed_memory() -> None:
    """Give what is free back to the system, so that what the process holds is what it uses."""
    trim: Any = _of_glibc("malloc_trim")
    if trim is not None:
        trim(ctypes.c_size_t(0))


def _of_glibc(name: str) -> Any:
    """A function of the C library; None where it is another one."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
