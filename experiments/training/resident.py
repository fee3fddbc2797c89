"""The resident set of this process: the bytes of memory that it holds, libraries included."""

import os
import re
import resource
import sys
from pathlib import Path

from bszo.allocator import give_back_freed_memory

_STATUS, _CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def resident_now() -> int | None:
    """The bytes now; None where the system does not say."""
    return _status("VmRSS")


def resident_peak() -> int:
    """The most bytes since `reset_resident_peak`; where the system has no reset, since the process
    began."""
    found = _status("VmHWM")
    if found is not None:
        return found
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def reset_resident_peak() -> None:
    """Have the peak count from what is in use now, on systems that can: what is free is given back
    first."""
    give_back_freed_memory()
    if os.access(_CLEAR_REFS, os.W_OK):
        _CLEAR_REFS.write_text("5")  # proc(5)


def _status(name: str) -> int | None:
    if not _STATUS.is_file():
        return None
    found = re.search(rf"^{name}:\s*(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    return 1024 * int(found[1]) if found else None
