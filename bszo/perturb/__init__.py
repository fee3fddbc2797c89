"""The one engine that moves parameters: noise, families of directions, ways to perturb, and the oracle."""

from bszo.perturb.directions import (
    DirectionFunction,
    Directions,
    Gaussian,
    Injected,
    LowRank,
    Scaled,
)
from bszo.perturb.inplace import Copies, Legs, Walk
from bszo.perturb.noise import NOISE_VERSION, Distribution, Terms, mix64
from bszo.perturb.oracle import Closure, LossOracle, Share
from bszo.perturb.streaming import Streaming

__all__ = [
    "NOISE_VERSION",
    "Closure",
    "Copies",
    "DirectionFunction",
    "Directions",
    "Distribution",
    "Gaussian",
    "Injected",
    "Legs",
    "LossOracle",
    "LowRank",
    "Scaled",
    "Share",
    "Streaming",
    "Terms",
    "Walk",
    "mix64",
]
