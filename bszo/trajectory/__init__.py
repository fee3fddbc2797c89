"""A run as its base model plus an append-only log of (seed, coefficients): write it, read it,
replay it."""

from bszo.trajectory.block import Step
from bszo.trajectory.header import FORMAT_VERSION, Header
from bszo.trajectory.reader import Trajectory, read
from bszo.trajectory.replay import describe, record, replay
from bszo.trajectory.writer import TrajectoryWriter

__all__ = [
    "FORMAT_VERSION",
    "Header",
    "Step",
    "Trajectory",
    "TrajectoryWriter",
    "describe",
    "read",
    "record",
    "replay",
]
