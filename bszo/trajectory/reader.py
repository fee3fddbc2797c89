"""Reader of a trajectory's file, which takes it as far as it is sound (docs/threats.md, "A log that
would build a model of nothing")."""

import hashlib
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from bszo.errors import TrajectoryError
from bszo.perturb import NOISE_VERSION
from bszo.trajectory.block import SHAPE, Step, body_bytes, decode_block
from bszo.trajectory.header import DIGEST_BYTES, Header, decode_header, digest, encode_header


@dataclass(frozen=True)
class Trajectory:
    """The sound part of a log.

    Attributes:
        header: what a replay must start from.
        steps: `steps[i]` is the run's step i.
        finished: True where the run has marked its end; else the log ends where it was last
            written.
        problem: what is damaged and how much is lost, in one line; None where nothing is.
        num_bytes: length of the sound part.
        chain: digest of the last sound block, to which the next one is chained.
    """

    header: Header
    steps: list[Step]
    finished: bool
    problem: str | None
    num_bytes: int
    chain: bytes = field(repr=False)

    @cached_property
    def digest(self) -> str:
        """SHA-256, in hex, of the header and of each step: the name of what the run did.

        It does not depend on how the steps lie in blocks, which a kill and a resume change.
        """
        whole = hashlib.sha256(encode_header(self.header))
        for step in self.steps:
            whole.update(step.encoded())
        return whole.hexdigest()


def read(path: str | Path) -> Trajectory:
    """The trajectory in a file, cut back to the last sound block where it is damaged.

    Raises:
        TrajectoryError: the file cannot be read, is no trajectory, has another format or noise
            version, or its header is damaged.
    """
    try:
        with Path(path).open("rb") as file:
            return parse(file)
    except OSError as error:
        raise TrajectoryError(f"{path}: cannot be read ({error.strerror})") from error
    except TrajectoryError as error:
        raise TrajectoryError(f"{path}: {error}") from error


def parse(file: BinaryIO) -> Trajectory:
    """As `read`, of an open file; the errors do not name it."""
    total = file.seek(0, os.SEEK_END)
    file.seek(0)
    header, chain = decode_header(file.read)
    if header.noise_version != NOISE_VERSION:
        raise TrajectoryError(
            f"noise version {header.noise_version}; the seeds of this version of bszo name the "
            f"directions of noise version {NOISE_VERSION}"
        )
    steps: list[Step] = []
    finished, problem, sound, number = False, None, file.tell(), 0
    while problem is None and sound < total:
        block = (
            "bytes follow the end of the run"
            if finished
            else _block(file, total, len(steps), chain)
        )
        if isinstance(block, str):
            problem = (
                f"block {number} at byte {sound}: {block}; the last {total - sound} of {total}"
                f" bytes are lost, the {len(steps)} steps before them are sound"
            )
        else:
            new, chain = block
            finished, number, sound = not new, number + 1, file.tell()
            steps += new
    return Trajectory(header, steps, finished, problem, sound, chain)


def _block(file: BinaryIO, total: int, first: int, before: bytes) -> tuple[list[Step], bytes] | str:
    """The steps of the next block and its digest, or what is wrong with it."""
    head = file.read(SHAPE.size)
    if len(head) < SHAPE.size:
        return "it is cut off"
    size = body_bytes(head, first)
    if size is None:
        return "its first bytes are damaged"
    if file.tell() + size + DIGEST_BYTES > total:
        return "it is cut off, or its first bytes are damaged"
    body, found = file.read(size), file.read(DIGEST_BYTES)
    if found != digest(before, head, body):
        return "it does not match its checksum"
    return decode_block(head, body), found
