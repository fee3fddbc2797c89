"""Folders of one run: where its record, lock and checkpoints lie, and what lies there already."""

import errno
import logging
import os
import shutil
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from bszo.errors import ConfigError
from experiments.config.schema import Paths
from experiments.records import store
from experiments.records.locks import Busy, claimed
from experiments.records.record import RecordError

log = logging.getLogger("experiments")


class Folders:
    """The folders of one run.

    Args:
        paths: of the configuration.
        signature: of the run.

    Attributes:
        checkpoints: the folder of this signature's checkpoints, gone once its record is ok.
    """

    def __init__(self, paths: Paths, signature: str) -> None:
        self.results = with_home(paths.results, "paths.results")
        self.runs = with_home(paths.runs, "paths.runs")
        self.signature = signature
        self.checkpoints = self.results / "checkpoints" / signature

    def claim(self, stack: ExitStack) -> Busy | None:
        """Hold the signature's lock until `stack` closes; returns Busy where another process does.

        Raises:
            ConfigError: a folder cannot be written.
        """
        try:
            stack.enter_context(claimed(self.signature, self.results / "locks"))
        except Busy as busy:
            return busy
        except OSError as error:
            raise ConfigError(
                f"paths.results={self.results}: cannot be written ({error.strerror})"
            ) from error
        require_writable(self.runs, "paths.runs")
        return None

    def earlier(self) -> dict[str, Any] | None:
        """The ok record with this signature, packed or fresh; another status will be replaced.

        Raises:
            ConfigError: what lies there under this signature is no sound record.
        """
        try:
            found = store.find(self.signature, self.runs)
        except RecordError as error:
            raise ConfigError(f"{error}; move it away to run this again") from error
        if found is None or found.record["status"] != "ok":
            return None
        shutil.rmtree(self.checkpoints, ignore_errors=True)  # a kill may have come before this
        accuracy = found.record["test_accuracy"]
        log.info("already run: %s (test accuracy %s)", found.file.name, accuracy)
        return found.record

    def begun(self) -> dict[str, Any] | None:
        """The record of a run that has taken steps and not ended well; None where there is none."""
        with suppress(RecordError):
            found = store.find(self.signature, self.runs)
            if found and found.record["status"] != "ok" and found.record["num_steps"]:
                return found.record
        return None

    def write(self, record: dict[str, Any]) -> Path:
        """Write the record's file, and return its path.

        An earlier attempt's may have another name, where a choice of other words says the same: it
        goes.

        Raises:
            ConfigError: the folder cannot be written.
        """
        try:
            path = store.write(record, self.runs)
        except OSError as error:
            raise ConfigError(
                f"paths.runs={self.runs}: the record cannot be written ({error.strerror})"
            ) from error
        for earlier in self.runs.glob(f"*-{self.signature}.json"):
            if earlier != path:
                earlier.unlink(missing_ok=True)
        return path


def with_home(path: str, key: str) -> Path:
    """The path with the user's home in place of ~; ConfigError, with its key, without a home."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:  # ~ of nobody, or without a home
        raise ConfigError(f"{key}={path}: {error}") from error


def require_writable(folder: Path, key: str) -> None:
    """Make the folder if need be; ConfigError, with its key, where no file can be put into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise ConfigError(f"{key}={folder}: cannot be written ({error.strerror})") from error
