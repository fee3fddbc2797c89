"""A copy of the numbers for whoever watches. The JSON record is the truth; a tracker may be left
out."""

import netrc
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from bszo.errors import ConfigError
from experiments.config.schema import Paths, Tracker

WANDB_HOST = "api.wandb.ai"


class RunTracker(Protocol):
    """Takes numbers while they appear.

    Attributes:
        run_id: names the run for whoever goes on with it; None where nothing is kept.
    """

    run_id: str | None

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Numbers that belong to a training step; steps never go back."""
        ...

    def finish(self, summary: Mapping[str, Any], ok: bool) -> None:
        """The run's end, whatever it was; nothing may be logged after it."""
        ...


class NoTracker:
    """Keeps nothing."""

    run_id: str | None = None

    def log(self, values: Mapping[str, float], step: int) -> None:
        del values, step

    def finish(self, summary: Mapping[str, Any], ok: bool) -> None:
        del summary, ok


class WandbTracker:
    """Weights & Biases, offline unless `mode` is "online"; never asks for a login.

    Args:
        mode: "offline" or "online".
        project: the W&B project.
        folder: W&B makes `wandb/` in it.
        name: of the run.
        config: what W&B shows as the configuration.
        run_id: of the run that goes on; None begins one.
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
            why = " ".join(str(error).split())[:200]
            raise ConfigError(
                f"tracker=wandb: W&B cannot begin ({why}); tracker=none does without it"
            ) from error
        self.run_id: str | None = self._run.id

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def finish(self, summary: Mapping[str, Any], ok: bool) -> None:
        self._run.summary.update(dict(summary))
        self._run.finish(exit_code=0 if ok else 1)


def logged_in() -> bool:
    """True where W&B would find a key by itself, without asking."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators(WANDB_HOST) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def make_tracker(
    tracker: Tracker, paths: Paths, name: str, config: Mapping[str, Any], run_id: str | None = None
) -> RunTracker:
    """The tracker that a configuration asks for; "auto" is online only with a login. `run_id`: see
    WandbTracker."""
    if tracker.kind == "none":
        return NoTracker()
    online = tracker.mode == "online" or (tracker.mode == "auto" and logged_in())
    mode: Literal["offline", "online"] = "online" if online else "offline"
    return WandbTracker(
        mode=mode,
        project=tracker.project,
        folder=Path(paths.wandb),
        name=name,
        config=config,
        run_id=run_id,
    )
