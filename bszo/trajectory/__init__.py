"""Trajectories: a run as its base model and an append-only log of losses and coefficients.

write it: TrajectoryWriter, describe, record
read it: read
take its steps again without a forward pass: replay
"""

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
