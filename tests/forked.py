"""Commands in a fork of the tests' process: what they print and their exit code, without the
seconds in which a process of its own would load torch."""

import logging
import os
import runpy
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from hydra._internal.hydra import Hydra

from bszo.errors import BszoError
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


VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def in_group(size: int, body: Callable[[int], Any]) -> list[Any]:
    """body(rank) in `size` processes that have torchrun's variables; what each returned, or as a
    string the error that ended it. None where one has died.

    They meet in a store as they would in torchrun's: a port that is only looked for can be
    another's by the time that it is taken. The store's threads are in a process of their own: one
    looks up the name of whoever connects, and a process that is forked meanwhile has a copy of the
    resolver's lock that nobody releases.
    """
    port, told = FORK.Pipe(duplex=False)
    meeting = FORK.Process(target=_meet, args=(told,), daemon=True)
    meeting.start()
    told.close()
    assert port.poll(PATIENCE), "the store does not say its port"
    number = str(port.recv())
    pipes = [FORK.Pipe(duplex=False) for _ in range(size)]

    def process(rank: int) -> None:
        torch.set_num_threads(1)
        os.environ.update(
            zip(VARIABLES, (str(rank), str(size), str(rank), "127.0.0.1", number), strict=True)
        )
        os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"
        # as torchrun has it: accelerate would take more, and a fork has none of OpenMP's threads
        os.environ["OMP_NUM_THREADS"] = "1"
        try:
            result = body(rank)
        except BaseException as error:
            result = (
                f"{type(error).__name__}: {error}"
                if isinstance(error, BszoError)
                else (traceback.format_exc())
            )
        pipes[rank][1].send(result)

    started = [FORK.Process(target=process, args=(rank,)) for rank in range(size)]
    for child in started:
        child.start()
    for _, sending in pipes:
        sending.close()
    end = time.monotonic() + PATIENCE  # one for all: who waits for one that hangs, hangs too
    results = []
    for receiving, _ in pipes:
        try:
            left = max(end - time.monotonic(), 0)
            results.append(receiving.recv() if receiving.poll(left) else "waits for ever")
        except EOFError:
            results.append(None)  # it died
    for child in started:
        child.join(max(end - time.monotonic(), 0))
        child.kill()
    meeting.kill()
    meeting.join()
    return results


def _meet(told: Any) -> None:
    """Hold a store and tell its port. It is killed when the group is done."""
    store: Any = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    told.send(store.port)
    time.sleep(2 * PATIENCE)
