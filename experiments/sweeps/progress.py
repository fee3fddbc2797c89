"""How far a sweep is: a line for each run that has ended, as its record appears.

A launcher says nothing before its last run has ended, and some of its runs may be done by other
processes or machines.
"""

import logging
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from experiments.records.record import SETTLED, Record, RecordError
from experiments.records.store import load
from experiments.sweeps.grid import Point
from experiments.sweeps.matching import fits

LOOK_EVERY = 1.0  # seconds

log = logging.getLogger("experiments.sweeps.progress")


def speak() -> None:
    """Have what a sweep says reach the terminal, whatever Hydra does to the root logger's
    handlers."""
    if not log.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False


class Progress:
    """While entered, watches a folder and says which of the runs have ended.

    Args:
        name: of the sweep.
        runs: that are to be done.
        folder: where their records appear.
    """

    def __init__(self, name: str, runs: Sequence[Point], folder: Path) -> None:
        self.name, self.folder, self.count = name, folder, len(runs)
        self.left = list(runs)
        self.seen = self._files()
        self.started = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Progress":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()
        self.look()

    def _watch(self) -> None:
        while not self._over.wait(LOOK_EVERY):
            self.look()

    def look(self) -> None:
        """Say what has ended since the last look."""
        files = self._files()
        for name in sorted(files, key=lambda name: files[name]):
            if files[name] != self.seen.get(name):
                self._say(self.folder / name)
        self.seen = files

    def _files(self) -> dict[str, int]:
        found = {}
        for file in self.folder.glob("*.json") if self.folder.is_dir() else ():
            with suppress(FileNotFoundError):  # another process has packed it
                found[file.name] = file.stat().st_mtime_ns
        return found

    def _say(self, file: Path) -> None:
        try:
            record = load(file)
        except RecordError:  # the table will name it
            return
        run = next((run for run in self.left if fits(record, run)), None)
        if run is None or record["status"] not in SETTLED:
            return
        self.left.remove(run)
        done = self.count - len(self.left)
        passed = time.monotonic() - self.started
        log.info(
            "%s: %d of %d, %s left; %s",
            self.name,
            done,
            self.count,
            clock(passed / done * len(self.left)),
            described(record, run),
        )


def clock(seconds: float) -> str:
    """Write seconds as hours, minutes and seconds: 432 is "0:07:12"."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


def described(record: Record, run: Point) -> str:
    """ "wic tiny-opt bf16 mezo official seed=3 lr=0.0003: 51.2 %"."""
    groups = [
        record["choices"].get(key)
        for key in ("task", "model", "precision", "tuning", "optimizer", "fidelity")
    ]
    words = [name for name in groups if name and name != "full"]
    words += [
        f"{key.rpartition('.')[2]}={value}"
        for key, value in run.items()
        if key == "seed" or key.startswith(("optimizer.", "directions."))
    ]
    score = record["test_accuracy"]
    return (
        f"{' '.join(words)}:"
        f" {record['status'].replace('_', ' ') if score is None else f'{100 * score:.1f} %'}"
    )
