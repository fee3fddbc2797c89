"""Files and folders that are there whole or not at all, whatever stops their writer.

A reader sees the old one or the new one, never a part of one (docs/threats.md, "A run that is
killed"). Only the standard library is needed.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` to write to; when the block ends, its bytes are on the disk
    and it takes the name `path`.

    After an error `path` is as it was, and the temporary file is gone. A process that is killed
    leaves a file named `.<name>-<random>.tmp`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        with _held(temporary):
            yield temporary
            _sync(temporary)
            temporary.chmod(_rights(0o666))  # mkstemp makes it readable by its owner alone
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)  # the new name is on the disk too


@contextmanager
def folder_written_whole(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder` to write files into; when the block ends, it takes the
    name `folder`, which must not be in use.

    After an error the temporary folder is gone. What an earlier writer of the same folder left when
    it was killed is removed first: it may be as large as a model.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_unfinished(folder)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", suffix=".tmp", dir=folder.parent))
    try:
        with _held(temporary):
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    _sync(file)
                    file.chmod(_rights(0o666))  # safetensors makes it so too
            temporary.chmod(_rights(0o777))  # and mkdtemp the folder
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _sync_folder(folder.parent)


def remove_unfinished(path: Path) -> None:
    """Remove what killed writers of a file or folder have left beside it. What somebody is writing
    stays, and so does what is meant for another name."""
    written = re.compile(rf"\.{re.escape(path.name)}-[a-z0-9_]{{8}}\.tmp")
    for left in path.parent.iterdir() if path.parent.is_dir() else ():
        if written.fullmatch(left.name) is None:
            continue
        with suppress(OSError), _held(left):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Hold a temporary file or folder for as long as it is written; the system lets go of it where
    the writer is killed.

    Raises:
        BlockingIOError: somebody else holds it.
    """
    if os.name != "posix":  # a folder has no lock there
        yield
        return
    import fcntl

    handle = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(handle)


def _rights(most: int) -> int:
    """What a new file or folder may be used for here, by the process's umask."""
    mask = os.umask(0o077)  # reading it means setting it; for this moment others get less
    os.umask(mask)
    return most & ~mask


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":  # elsewhere a folder cannot be opened
        _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
