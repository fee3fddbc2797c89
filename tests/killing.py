"""Processes that die without a word at a moment of their own work, which a busy machine does not
move."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

FORK: Any = multiprocessing.get_context("fork")  # torch is loaded once, in the parent
# seconds to wait for what must come: an end to hanging, not a limit that a busy machine may reach
PATIENCE = 600.0


def profiled(body: Callable[[], object], at: int | None = None) -> int:
    """How many calls and returns `body` makes, of Python's functions and of C's; with SIGKILL at
    number `at`."""
    count = 0

    def see(*_: object) -> None:
        nonlocal count
        count += 1
        if count == at:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(see)
    try:
        body()
    finally:
        sys.setprofile(None)
    return count


def kill(body: Callable[[], object], at: int) -> None:
    """Have a forked process run `body` and die at its call or return number `at`, which it must
    come to."""
    process = FORK.Process(target=profiled, args=(body, at))
    process.start()
    process.join(PATIENCE)
    assert process.exitcode == -signal.SIGKILL, f"it ended before: exit code {process.exitcode}"
