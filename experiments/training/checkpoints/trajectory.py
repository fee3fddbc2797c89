"""Trajectory checkpoints: the log of a run's steps in place of its parameters, which a replay of
the log finds again."""

import copy
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from bszo.errors import TrajectoryError
from bszo.files import written_whole
from bszo.models.on_disk import empty_like
from bszo.trajectory import Header, Trajectory, TrajectoryWriter, describe, read, record, replay
from bszo.trajectory.replay import require_sound
from experiments.training.build import Parts
from experiments.training.checkpoints.serialize import CheckpointError
from experiments.training.checkpoints.weights import Checkpoints, unwritable

log = logging.getLogger("experiments")


class TrajectoryCheckpoints(Checkpoints):
    """Checkpoints of a few kilobytes, whatever the model's size.

    To go on, a run makes the moves of all its steps so far again, without a forward pass.

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
        """Copy the log, marked as finished, to `path`; `remove` deletes the one in the folder."""
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
        """Nothing to write: the log leads to them."""

    def _restore(
        self, plain: dict[str, Any], state: dict[str, Any], tensors: dict[str, Tensor]
    ) -> list[Tensor]:
        step, best_step = plain["step"], plain["best_step"]
        trajectory, best = self._reaching(step), []

        def keep() -> None:
            optimizer: Any = self.parts.optimizer
            if optimizer.num_steps == best_step:
                best.extend(empty_like(p).copy_(p.detach()) for p in self.named.values())

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
        """The log, if it is sound up to the checkpoint's step; it is read before theta is moved.

        Raises:
            CheckpointError: the log is shorter, or a step holds a value by which no run moves.
        """
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
