"""One process a signature: whoever holds its lock runs it, the others go on to something else."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


class Busy(Exception):
    """Another process runs this signature; the message is one line."""


@contextmanager
def claimed(signature: str, folder: Path) -> Iterator[None]:
    """Hold the signature's lock in `folder`, or raise Busy at once.

    The lock is the operating system's (flock): it ends with the process that holds it, however that
    dies, so that a stale one cannot stay. The empty file does, which keeps two processes from
    holding locks of two files of one name.

    Raises:
        Busy: another living process holds it.
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
