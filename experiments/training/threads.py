"""Threads of torch on a CPU: how many a run takes, by its model's size and the runs beside it.

One thread is fastest for a tiny model, and its sums do not depend on the machine. A large model
takes the physical cores. The number changes sums in their last bits. A record's provenance names
it; like the device, it is no part of the signature.
"""

import os
from typing import Literal

import psutil

LARGE = 20_000_000  # parameters; from here on more threads than one are faster
SHARING = "BSZO_PROCESSES_PER_MACHINE"  # set by the launcher of several runs at a time


def num_threads(threads: int | Literal["auto"], num_parameters: int) -> int:
    """The threads of a run.

    Args:
        threads: the configuration's; a number is taken as it is.
        num_parameters: of the model, trained or not.
    """
    if threads != "auto":
        return threads
    return 1 if num_parameters < LARGE else max(1, physical_cores() // num_processes())


def physical_cores() -> int:
    """Cores that this process may use, those that hyper-threading shows twice counted once."""
    logical = psutil.cpu_count() or 1
    physical = psutil.cpu_count(logical=False) or logical
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else logical
    return max(1, min(physical, allowed))


def num_processes() -> int:
    """Processes that share this machine: a launcher's runs times torchrun's processes of each."""
    return _positive(SHARING) * _positive("LOCAL_WORLD_SIZE")


def _positive(variable: str) -> int:
    value = os.environ.get(variable, "")
    return max(1, int(value)) if value.isdigit() else 1
