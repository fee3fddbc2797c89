"""The one engine that moves parameters: noise, families of directions, ways to perturb, and the
oracle."""

from bszo.perturb.directions import (
    Block,
    Blocks,
    DirectionFunction,
    Directions,
    Gaussian,
    Injected,
    LowRank,
    Mask,
    MaskScope,
    Scaled,
    Sparse,
    Split,
    Subspace,
    Weighted,
    matrix_shape,
    partition,
    repeated_modules,
    seed_in_block,
    zeros_of,
)
from bszo.perturb.engines import Copies, Legs, Perturbation, Streaming, Walk, make_engine
from bszo.perturb.forward_mode import ForwardMode
from bszo.perturb.noise import NOISE_VERSION, Distribution, Terms
from bszo.perturb.noise.seeds import mix64
from bszo.perturb.oracle import Closure, LossOracle, Share

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
