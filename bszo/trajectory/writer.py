"""A trajectory's file, written so that a kill at any byte loses no more than the last block, and
gone on with."""

import itertools
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from bszo.errors import TrajectoryError
from bszo.files import written_whole
from bszo.trajectory.block import MOST_STEPS, Step, encode_block
from bszo.trajectory.header import DIGEST_BYTES, Header, encode_header
from bszo.trajectory.reader import read

# a block of many coefficients is written before its steps are as many as asked for
BLOCK_BYTES = 1 << 20


class TrajectoryWriter:
    """Appends steps to a new log; blocks reach the disk whole, in order, each synced before the
    next.

    A kill at any moment leaves a log that `read` cuts back to its last block, and that `resume`
    goes on from.

    Args:
        path: of the file, which must not exist yet.
        header: what the run starts from.
        flush_every: steps a block; those of an unwritten block are what a kill loses.

    Attributes:
        num_steps: steps appended so far.
        finished: the run is marked as over, and takes no more steps.

    Raises:
        TrajectoryError: from here and every method: the file exists or cannot be written, or a step
            is out of order.
    """

    def __init__(self, path: str | Path, header: Header, *, flush_every: int = 100) -> None:
        if not 1 <= flush_every <= MOST_STEPS:
            raise TrajectoryError(f"flush_every={flush_every}: 1 to {MOST_STEPS} steps are valid")
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
        """Go on after the last sound block, or after `to_step` steps; what follows is dropped from
        the file.

        Args:
            path, flush_every: as for a new log.
            header: of the run that goes on; it must be the log's.
            to_step: where the run stands, for example by its checkpoint; None is the log's end.
        """
        found = read(path)
        if difference := found.header.difference(header):
            raise TrajectoryError(f"{path}: is the log of another run: {difference}")
        kept = len(found.steps) if to_step is None else to_step
        if not 0 <= kept <= len(found.steps):
            raise TrajectoryError(
                f"{path}: holds {len(found.steps)} sound steps and cannot go on after {kept}"
            )
        self = cls.__new__(cls)
        self.path, self.header, self.flush_every = Path(path), found.header, flush_every
        self._replace(found.steps[:kept])
        return self

    def append(self, step: int, entry: Step) -> None:
        """Add the run's step of this number, which must be the next one; some calls write a
        block."""
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
        """Write what is appended, in blocks, and have the disk hold it. After an error it may be
        tried again."""
        while self._pending:
            like = self._pending[0]
            block = list(itertools.takewhile(like.fits, self._pending[: like.most]))
            self._write(encode_block(self.num_steps - len(self._pending), block, self._chain))
            self._pending = self._pending[len(block) :]

    def finish(self) -> None:
        """Flush, and mark the run as over."""
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
        """The file is sound up to `_size`; what a failed write left behind that is written over."""
        with self._telling(), self.path.open("r+b") as file:
            file.seek(self._size)
            file.write(block)
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
        self._size += len(block)
        self._chain = block[-DIGEST_BYTES:]

    def _replace(self, steps: list[Step]) -> None:
        """Have the file hold the header and these steps: the old one or the new one, at every
        moment."""
        whole, self._chain = encode(self.header, steps, self.flush_every)
        self.num_steps, self.finished, self._size = len(steps), False, len(whole)
        self._pending: list[Step] = []
        with self._telling(), written_whole(self.path) as temporary:
            temporary.write_bytes(whole)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise TrajectoryError(f"{self.path}: cannot be written ({error.strerror})") from error


def _block_steps(like: Step, asked: int) -> int:
    """Steps of a block: as many as asked for, but where they are wide."""
    width = len(like.losses) + len(like.coefficients) + len(like.lr)
    return min(asked, BLOCK_BYTES // (8 * width) or 1)


def encode(header: Header, steps: Sequence[Step], block_steps: int) -> tuple[bytes, bytes]:
    """A whole log, its last digest beside it."""
    parts = [encode_header(header)]
    first = 0
    for i in range(1, len(steps) + 1):
        like = steps[first]
        if (
            i == len(steps)
            or i - first == min(_block_steps(like, block_steps), like.most)
            or not like.fits(steps[i])
        ):
            parts.append(encode_block(first, steps[first:i], parts[-1][-DIGEST_BYTES:]))
            first = i
    return b"".join(parts), parts[-1][-DIGEST_BYTES:]
