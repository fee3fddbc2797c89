"""The one engine that moves parameters: noise, families of directions, ways to perturb, and the
oracle."""

from bszo.perturb.blocks import Blocks, seed_in_block
from bszo.perturb.directions import (
    DirectionFunction,
    Directions,
    Gaussian,
    Injected,
    Scaled,
)
from bszo.perturb.engine import Perturbation, make_engine
from bszo.perturb.forward_mode import ForwardMode
from bszo.perturb.inplace import Copies, Legs, Walk
from bszo.perturb.low_rank import LowRank
from bszo.perturb.noise import NOISE_VERSION, Distribution, Terms
from bszo.perturb.oracle import Closure, LossOracle, Share
from bszo.perturb.partition import Block, Split, partition, repeated_modules
from bszo.perturb.seeds import mix64
from bszo.perturb.sparse import Mask, MaskScope, Sparse, zeros_of
from bszo.perturb.streaming import Streaming
from bszo.perturb.subspace import Subspace, matrix_shape
from bszo.perturb.weighted import Weighted

__all__ = [
    "NOISE_VERSION",
    "Block",
    "Blocks",
    "Closure",
    "Copies",
    "DirectionFunction",
    "Directions",
    "Distribution",
    "ForwardMode",
    "Gaussian",
    "Injected",
    "Legs",
    "LossOracle",
    "LowRank",
    "Mask",
    "MaskScope",
    "Perturbation",
    "Scaled",
    "Share",
    "Sparse",
    "Split",
    "Streaming",
    "Subspace",
    "Terms",
    "Walk",
    "Weighted",
    "make_engine",
    "matrix_shape",
    "mix64",
    "partition",
    "repeated_modules",
    "seed_in_block",
    "zeros_of",
]
