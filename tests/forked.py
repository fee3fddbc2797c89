"""Commands in a fork of the tests' process: what they print and their exit code, without the
seconds in which a process of its own would load torch."""

import logging
import os
import runpy
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from tests.killing import FORK, PATIENCE


def run_module(
    module: str, *arguments: str, folder: Path, before: Callable[[], object] | None = None
) -> subprocess.CompletedProcess[str]:
    """`python -m MODULE ARGUMENTS`.

    Args:
        folder: where the two files of what is printed may lie; they are gone afterwards.
        before: is called in the fork, once what it prints goes to these files.
    """
    out, err = folder / "stdout.txt", folder / "stderr.txt"

    def body() -> None:
        for number, path in ((1, out), (2, err)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdout, sys.stderr = (os.fdopen(i, "w", buffering=1) for i in (1, 2))
        logging.getLogger().handlers.clear()  # the tests' own
        warnings.filterwarnings("ignore", "found in sys.modules", RuntimeWarning)
        if before is not None:
            before()
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)

    process = FORK.Process(target=body)
    process.start()
    process.join(PATIENCE)
    said = [path.read_text(encoding="utf-8") for path in (out, err)]
    for path in (out, err):
        path.unlink()
    return subprocess.CompletedProcess((module, *arguments), process.exitcode, *said)
