"""Trackers: a copy of the numbers for whoever watches a run.

The JSON record is the truth. A tracker may be left out, and one that fails is left out from then
on: it never ends a run.
"""

import errno
import logging
import netrc
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Protocol

from bszo.errors import ConfigError, one_line
from experiments.config.schema import Paths, Tracker
from experiments.training.folders import with_home

WANDB_HOST = "api.wandb.ai"
MIN_FREE_BYTES = 1 << 20  # W&B says nothing on a full disk and loses what it is given

log = logging.getLogger("experiments")


class RunTracker(Protocol):
    """What a run tells its numbers to while they appear.

    Attributes:
        run_id: names the run for a later part that goes on with it; None where nothing is kept.
    """

    run_id: str | None

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Take numbers that belong to a training step; steps never go back."""
        ...

    def finish(self, summary: Mapping[str, Any], ok: bool) -> None:
        """Take the numbers of the run's end, whatever it was; nothing may be logged after it."""
        ...


class NoTracker:
    """A tracker that keeps nothing, for runs without one."""

    run_id: str | None = None

    def log(self, values: Mapping[str, float], step: int) -> None:
        del values, step

    def finish(self, summary: Mapping[str, Any], ok: bool) -> None:
        del summary, ok


class WandbTracker:
    """A run of Weights & Biases, offline unless `mode` is "online". It never asks for a login.

    Args:
        mode: "offline" or "online".
        project: the W&B project.
        folder: W&B makes `wandb/` in it.
        name: of the run.
        config: what W&B shows as the configuration.
        run_id: of the run that goes on; None begins one.

    Raises:
        ConfigError: W&B cannot begin.
    """

    def __init__(
        self,
        *,
        mode: Literal["offline", "online"],
        project: str,
        folder: Path,
        name: str,
        config: Mapping[str, Any],
        run_id: str | None,
    ) -> None:
        import wandb

        # no console capture, no code, no git, no host: only the numbers that are logged
        settings = wandb.Settings(
            console="off",
            save_code=False,
            disable_git=True,
            disable_job_creation=True,
            silent=True,
            x_disable_meta=True,
            x_disable_machine_info=True,
            x_disable_stats=True,
            host="",
            username="",
        )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._run = wandb.init(
                mode=mode,
                project=project,
                dir=str(folder),
                name=name,
                config=dict(config),
                settings=settings,
                reinit="finish_previous",
                id=run_id,
                resume="allow" if run_id else None,
            )
        except (OSError, wandb.Error) as error:
            raise ConfigError(
                f"tracker=wandb: W&B cannot begin ({one_line(error)}); tracker=none does without it"
            ) from error
        self.run_id: str | None = self._run.id

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def finish(self, summary: Mapping[str, Any], ok: bool) -> None:
        self._run.summary.update(dict(summary))
        self._run.finish(exit_code=0 if ok else 1)

    def abandon(self) -> None:
        """Let go of a W&B that has failed, so that it says nothing more at the process's end."""
        import wandb

        with suppress(Exception):  # it finds again what has failed
            wandb.teardown(exit_code=1)


class Failsafe:
    """A tracker whose first failure is one warning; the run goes on without it.

    W&B's process may be killed and its disk may be full. What it raises then is not documented, so
    that every exception of a call counts.

    Args:
        tracker: takes the numbers as long as it can.
        folder: where it writes.
    """

    def __init__(self, tracker: WandbTracker, folder: Path) -> None:
        self.tracker, self.folder, self.failed = tracker, folder, False
        self.run_id: str | None = tracker.run_id

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._attempt(lambda: self.tracker.log(values, step))

    def finish(self, summary: Mapping[str, Any], ok: bool) -> None:
        self._attempt(lambda: self.tracker.finish(summary, ok))

    def _attempt(self, call: Callable[[], None]) -> None:
        if self.failed:
            return
        try:
            if shutil.disk_usage(self.folder).free < MIN_FREE_BYTES:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder))
            call()
        except Exception as error:
            self.failed = True
            why = one_line(error) or type(error).__name__
            log.warning("tracker=wandb: W&B has failed (%s); the run goes on without it", why)
            self.tracker.abandon()


def logged_in() -> bool:
    """Whether W&B would find a key by itself, without asking."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators(WANDB_HOST) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def make_tracker(
    tracker: Tracker, paths: Paths, name: str, config: Mapping[str, Any], run_id: str | None = None
) -> RunTracker:
    """The tracker that a configuration asks for; the mode "auto" is online only with a login.

    Args:
        tracker, paths: of the configuration.
        name, config, run_id: as for WandbTracker.

    Raises:
        ConfigError: W&B cannot begin.
    """
    if tracker.kind == "none":
        return NoTracker()
    online = tracker.mode == "online" or (tracker.mode == "auto" and logged_in())
    mode: Literal["offline", "online"] = "online" if online else "offline"
    folder = with_home(paths.wandb, "paths.wandb")
    wandb = WandbTracker(
        mode=mode, project=tracker.project, folder=folder, name=name, config=config, run_id=run_id
    )
    return Failsafe(wandb, folder)
