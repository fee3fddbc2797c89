"""Locks of runs: the process that holds the lock of a signature runs it, and all others pass over
it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


class Busy(Exception):
    """Another process is running this signature. The message is one line."""


@contextmanager
def claimed(signature: str, folder: Path) -> Iterator[None]:
    """Hold the signature's lock in `folder`, or raise Busy at once.

    The lock is the operating system's (flock). It ends with the process that holds it, however that
    process dies, so that no lock is ever left behind. The empty file of the lock stays: if it were
    removed, two processes could hold locks of two different files of that name.

    Raises:
        Busy: another process holds the lock.
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{signature}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise Busy(f"{signature}: another process is running this configuration; skipped") from None
    try:
        yield
    finally:
        lock.release()
