"""Artifacts of an ok run, left beside its record where the configuration asks for them: the
selected weights, the log of the steps."""

import logging
import shutil
from pathlib import Path

from bszo.files import remove_unfinished
from bszo.models import LanguageModel, saved
from experiments.config.schema import Checkpoint
from experiments.training.checkpoints.trajectory import TrajectoryCheckpoints
from experiments.training.checkpoints.weights import Checkpoints
from experiments.training.folders import require_writable, with_home

log = logging.getLogger("experiments")


class Artifacts:
    """The selected weights and the log of the steps, which a run leaves beside its record.

    Args:
        checkpoint: of the configuration.
        results: the folder of all outputs.
        record: the name of the run's record, after which the log is named.
        signature: of the run, after which the weights' folder is named.

    Attributes:
        weights: a folder; None: `checkpoint.weights` asks for none.
        steps: a file; None: the checkpoints are no log.

    Raises:
        ConfigError: `checkpoint.weights` begins with ~ and there is no such home.
    """

    def __init__(self, checkpoint: Checkpoint, results: Path, record: str, signature: str) -> None:
        folder = checkpoint.weights
        self.weights = with_home(folder, "checkpoint.weights") / signature if folder else None
        name = Path(record).with_suffix(".bszo").name
        self.steps = results / "trajectories" / name if checkpoint.kind == "trajectory" else None

    def prepare(self) -> None:
        """Before training: remove what a killed part of this run has left half-written.

        It may be as large as the model. Only the process that holds the run's lock may call this.

        Raises:
            ConfigError: the weights cannot be written, which is better heard before hours of
                training than after them.
        """
        for path in filter(None, (self.weights, self.steps)):
            remove_unfinished(path)
        if self.weights is not None:
            require_writable(self.weights.parent, "checkpoint.weights")

    def warn_of_missing(self) -> None:
        """Warn of what an earlier run of the same signature was not asked for."""
        for path in filter(None, (self.weights, self.steps)):
            if not path.exists():
                log.warning(
                    "%s: the earlier run left none; move its record away to run it again", path
                )

    def write(self, model: LanguageModel, checkpoints: Checkpoints, best_step: int | None) -> None:
        """Write both; the selected parameters must be in place.

        Raises:
            BszoError: one of them cannot be written.
        """
        if self.weights is not None:
            shutil.rmtree(self.weights, ignore_errors=True)  # of an attempt whose record is gone
            saved.save_tuned(model, self.weights)
            log.info("selected weights: %s", self.weights)
        if self.steps is not None and isinstance(checkpoints, TrajectoryCheckpoints):
            checkpoints.export(self.steps)
            log.info(
                "trajectory: %s (experiments.replay; the selected step: --to %d)",
                self.steps,
                best_step or 0,
            )
