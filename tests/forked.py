"""Commands in a fork of the tests' process: what they print and their exit code, without the
seconds in which a process of its own would load torch."""

import logging
import os
import runpy
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

from hydra._internal.hydra import Hydra

from tests.killing import FORK, PATIENCE


class Forked:
    """A call in a fork of this process.

    Args:
        body: the call.
        folder: where the two files of what it prints may lie until `end`.
    """

    def __init__(self, body: Callable[[], object], folder: Path) -> None:
        made = [tempfile.mkstemp(dir=folder, prefix=".printed-") for _ in range(2)]
        self.files = [Path(name) for _, name in made]

        def printing() -> None:
            for number, (file, _) in zip((1, 2), made, strict=True):
                os.dup2(file, number)
            sys.stdout, sys.stderr = (os.fdopen(i, "w", buffering=1) for i in (1, 2))
            logging.getLogger().handlers.clear()  # the tests' own
            warnings.filterwarnings("ignore", "found in sys.modules", RuntimeWarning)
            body()

        self.process = FORK.Process(target=printing)
        self.process.start()
        for file, _ in made:
            os.close(file)

    def printed(self) -> list[str]:
        """What it has printed so far, to stdout and to stderr."""
        return [file.read_text(encoding="utf-8") for file in self.files]

    def end(self) -> subprocess.CompletedProcess[str]:
        """Wait for it; what it has printed and its exit code."""
        self.process.join(PATIENCE)
        printed = self.printed()
        for file in self.files:
            file.unlink()
        return subprocess.CompletedProcess("a fork", self.process.exitcode, *printed)


def no_mode(*_: object, **__: object) -> None:
    """What Hydra finds where nothing sets `hydra.mode`, as nothing here does (tests/test_conf.py).

    It composes all for it, and once more for the run; tests spare the first time.
    """


def module(name: str, *arguments: str) -> None:
    """`python -m NAME ARGUMENTS`, in a fork."""
    Hydra.get_mode = no_mode  # type: ignore[method-assign]
    sys.argv = [name, *arguments]
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def run_module(
    name: str, *arguments: str, folder: Path, before: Callable[[], object] | None = None
) -> subprocess.CompletedProcess[str]:
    """`python -m NAME ARGUMENTS` to its end.

    Args:
        folder: see `Forked`.
        before: is called in the fork, once what it prints goes to the two files.
    """

    def body() -> None:
        if before is not None:
            before()
        module(name, *arguments)

    return Forked(body, folder).end()
