"""Writer of a trajectory's file: a kill at any byte loses no more than the last block."""

import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from bszo.errors import TrajectoryError
from bszo.files import written_whole
from bszo.trajectory.block import MAX_STEPS, Step, encode_block
from bszo.trajectory.header import DIGEST_BYTES, Header, encode_header
from bszo.trajectory.reader import read

# a block of many coefficients is written before its steps are as many as asked for
BLOCK_BYTES = 1 << 20


class TrajectoryWriter:
    """Appends steps to a new log. Blocks reach the disk in order, each synced before the next.

    After a kill at any moment `read` cuts the log back to its last whole block, and `resume` goes
    on from there.

    Args:
        path: of the file, which must not exist yet.
        header: what the run starts from.
        flush_every: steps a block; a kill loses those of the block that is not written yet.

    Attributes:
        num_steps: steps appended so far.
        finished: True once the run is marked as over; it takes no more steps then.

    Raises:
        TrajectoryError: the file exists, or `flush_every` is out of range. From every method: the
            file cannot be written, or a step is out of order.
    """

    def __init__(self, path: str | Path, header: Header, *, flush_every: int = 100) -> None:
        _require_steps(flush_every)
        self.path, self.header, self.flush_every = Path(path), header, flush_every
        if self.path.exists():
            raise TrajectoryError(
                f"{path}: is there already; a run goes on in its log by TrajectoryWriter.resume"
            )
        self._replace([])

    @classmethod
    def resume(
        cls, path: str | Path, header: Header, *, to_step: int | None = None, flush_every: int = 100
    ) -> "TrajectoryWriter":
        """A writer that goes on after the last sound block, or after `to_step` steps.

        What follows in the file is dropped.

        Args:
            path, flush_every: as for a new log.
            header: of the run that goes on; it must be the log's.
            to_step: steps that the run has made, for example by its checkpoint; None: all of the
                log's.
        """
        _require_steps(flush_every)
        found = read(path)
        if difference := found.header.difference(header):
            raise TrajectoryError(f"{path}: is the log of another run: {difference}")
        count = len(found.steps) if to_step is None else to_step
        if not 0 <= count <= len(found.steps):
            raise TrajectoryError(
                f"{path}: holds {len(found.steps)} sound steps and cannot go on after {count}"
            )
        self = cls.__new__(cls)
        self.path, self.header, self.flush_every = Path(path), found.header, flush_every
        self._replace(found.steps[:count])
        return self

    def append(self, step: int, entry: Step) -> None:
        """Add the run's next step, whose number is checked; some calls write a block."""
        if self.finished:
            raise TrajectoryError(f"{self.path}: step {step} cannot follow the end of the run")
        if step != self.num_steps:
            raise TrajectoryError(
                f"{self.path}: step {step} cannot follow; the next one is {self.num_steps}"
            )
        self._pending.append(entry)
        self.num_steps += 1
        if len(self._pending) >= _block_steps(entry, self.flush_every):
            self.flush()

    def flush(self) -> None:
        """Write all appended steps, in blocks, and sync them; after an error it may be called
        again."""
        while self._pending:
            like = self._pending[0]
            block = list(itertools.takewhile(like.fits, self._pending[: like.max_steps]))
            self._write(encode_block(self.num_steps - len(self._pending), block, self._chain))
            self._pending = self._pending[len(block) :]

    def finish(self) -> None:
        """Flush, then mark the run as over."""
        self.flush()
        if not self.finished:
            self._write(encode_block(self.num_steps, [], self._chain))
        self.finished = True

    def __enter__(self) -> "TrajectoryWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.flush()

    def _write(self, block: bytes) -> None:
        """Append a block after the sound part, over what a failed write may have left behind it."""
        with self._write_errors(), self.path.open("r+b") as file:
            file.seek(self._size)
            file.write(block)
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
        self._size += len(block)
        self._chain = block[-DIGEST_BYTES:]

    def _replace(self, steps: list[Step]) -> None:
        """Write the header and these steps as a new file, which takes the old one's place whole."""
        whole, self._chain = encode(self.header, steps, self.flush_every)
        self.num_steps, self.finished, self._size = len(steps), False, len(whole)
        self._pending: list[Step] = []
        with self._write_errors(), written_whole(self.path) as temporary:
            temporary.write_bytes(whole)

    @contextmanager
    def _write_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise TrajectoryError(f"{self.path}: cannot be written ({error.strerror})") from error


def _require_steps(flush_every: int) -> None:
    if not 1 <= flush_every <= MAX_STEPS:
        raise TrajectoryError(f"flush_every={flush_every}: 1 to {MAX_STEPS} steps are valid")


def _block_steps(like: Step, asked: int) -> int:
    """Steps of a block: as many as asked for, or fewer where a step takes many bytes."""
    width = len(like.losses) + len(like.coefficients) + len(like.lr)
    return min(asked, BLOCK_BYTES // (8 * width) or 1)


def encode(header: Header, steps: Sequence[Step], block_steps: int) -> tuple[bytes, bytes]:
    """The bytes of a whole log, and its last digest."""
    parts = [encode_header(header)]
    first = 0
    for i in range(1, len(steps) + 1):
        like = steps[first]
        if (
            i == len(steps)
            or i - first == min(_block_steps(like, block_steps), like.max_steps)
            or not like.fits(steps[i])
        ):
            parts.append(encode_block(first, steps[first:i], parts[-1][-DIGEST_BYTES:]))
            first = i
    return b"".join(parts), parts[-1][-DIGEST_BYTES:]
