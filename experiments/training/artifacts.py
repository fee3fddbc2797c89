"""What an ok run leaves beside its record where the configuration asks for it: the selected
weights, the steps' log."""

import logging
import shutil
from pathlib import Path

from bszo.errors import ConfigError
from bszo.models import LanguageModel, saved
from experiments.config.schema import Checkpoint
from experiments.training.checkpoints.trajectory import TrajectoryCheckpoints
from experiments.training.checkpoints.weights import Checkpoints
from experiments.training.folders import require_writable

log = logging.getLogger("experiments")


class Artifacts:
    """Where both lie.

    Args:
        checkpoint: of the configuration.
        results: the folder of all outputs.
        record: the name of the run's record, by which the log is called.
        signature: of the run, by which the weights' folder is.

    Attributes:
        weights: a folder; None: `checkpoint.weights` asks for none.
        steps: a file; None: the checkpoints are no log.

    Raises:
        ConfigError: `checkpoint.weights` names the home of nobody.
    """

    def __init__(self, checkpoint: Checkpoint, results: Path, record: str, signature: str) -> None:
        self.weights = _folder(checkpoint.weights) / signature if checkpoint.weights else None
        name = Path(record).with_suffix(".bszo").name
        self.steps = results / "trajectories" / name if checkpoint.kind == "trajectory" else None

    def prepare(self) -> None:
        """ConfigError before hours of training, not after them, where the weights cannot be
        written."""
        if self.weights is not None:
            require_writable(self.weights.parent, "checkpoint.weights")

    def say_missing(self) -> None:
        """Warn of what an earlier run of the same signature was not asked for."""
        for path in filter(None, (self.weights, self.steps)):
            if not path.exists():
                log.warning(
                    "%s: the earlier run left none; move its record away to run it again", path
                )

    def leave(self, model: LanguageModel, checkpoints: Checkpoints, best_step: int | None) -> None:
        """Write both; the selected parameters are in place.

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


def _folder(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError as error:  # ~ of nobody, or without a home
        raise ConfigError(f"checkpoint.weights={path}: {error}") from error
