"""The light checkpoint: the run's log of (seed, coefficients) in place of its parameters, which are
found by replay."""

import copy
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from bszo.errors import TrajectoryError
from bszo.files import written_whole
from bszo.trajectory import Header, Trajectory, TrajectoryWriter, describe, read, record, replay
from bszo.trajectory.replay import require_sound
from experiments.training.build import Parts
from experiments.training.checkpoints.serialize import CheckpointError
from experiments.training.checkpoints.weights import Checkpoints, unwritable

log = logging.getLogger("experiments")


class TrajectoryCheckpoints(Checkpoints):
    """Checkpoints of a few kilobytes, whatever the model's size; going on costs the moves of all
    steps so far.

    Args:
        folder, signature, parts: as for Checkpoints.
        config: of the optimizer and of the adapter, by which someone else can replay the log.
        writes: False in all but the first of several processes that share the folder.

    Raises:
        TrajectoryError: the method follows true gradients, or its log cannot be written.
    """

    def __init__(
        self, folder: Path, signature: str, parts: Parts, config: dict[str, Any], *, writes: bool
    ) -> None:
        super().__init__(folder, signature, parts)
        self.path = folder / "trajectory.bszo"
        self.base: str = parts.model_facts["fingerprint"]
        self.header: Header = describe(
            parts.optimizer, base=self.base, config=copy.deepcopy(config)
        )
        self.writes = writes
        self.writer: TrajectoryWriter | None = None

    def start(self) -> None:
        if self.writes:
            with unwritable(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                self.path.unlink(missing_ok=True)  # of a run without a sound checkpoint
            self._record(TrajectoryWriter(self.path, self.header))

    def export(self, path: Path) -> None:
        """Leave the log, marked as finished, as `path`: `remove` takes the folder with its own."""
        assert self.writer is not None  # start or load came before
        self.writer.finish()
        with unwritable(path), written_whole(path) as temporary:
            shutil.copyfile(self.path, temporary)

    def _record(self, writer: TrajectoryWriter) -> None:
        record(self.parts.optimizer, writer)
        self.writer = writer

    def _rest(self) -> dict[str, Any]:
        assert self.writer is not None  # start or load came before
        self.writer.flush()
        return {}

    def _moved(self) -> dict[str, Tensor]:
        return {}

    def _save_best(self, best_step: int | None, best: Sequence[Tensor]) -> None:
        """The log holds them."""

    def _restore(
        self, plain: dict[str, Any], state: dict[str, Any], tensors: dict[str, Tensor]
    ) -> list[Tensor]:
        step, best_step = plain["step"], plain["best_step"]
        trajectory, best = self._reaching(step), []

        def keep() -> None:
            optimizer: Any = self.parts.optimizer
            if optimizer.num_steps == best_step:
                best.extend(parameter.detach().cpu().clone() for parameter in self.named.values())

        # parameters that are not finite are found at the next loss, as in a run that never stopped
        replay(
            trajectory,
            self.parts.optimizer,
            base=self.base,
            to_step=step,
            on_step=keep,
            require_finite=False,
        )
        if self.writes:
            self._record(TrajectoryWriter.resume(self.path, self.header, to_step=step))
        return best

    def _reaching(self, step: int) -> Trajectory:
        """The log, which must reach the checkpoint's step: one that does not is found before theta
        is touched."""
        try:
            trajectory = read(self.path)
            require_sound(trajectory.steps[:step])
        except TrajectoryError as error:
            raise CheckpointError(f"step-{step:08d}: {error}") from error
        if trajectory.problem:
            log.warning("%s: %s", self.path.name, trajectory.problem)
        if len(trajectory.steps) < step:
            raise CheckpointError(
                f"step-{step:08d}: {self.path.name} holds {len(trajectory.steps)} steps"
            )
        return trajectory
