"""Engines: ways to have a closure see perturbed parameters."""

from bszo.perturb.engines.base import Engine
from bszo.perturb.engines.by_factors import ByFactors
from bszo.perturb.engines.choice import Perturbation, engine_class, make_engine
from bszo.perturb.engines.copies import Copies
from bszo.perturb.engines.each import Each
from bszo.perturb.engines.hooks import linear_layers
from bszo.perturb.engines.layers import is_transposed, layers_of
from bszo.perturb.engines.streaming import Streaming
from bszo.perturb.engines.walk import Legs, Walk

__all__ = [
    "ByFactors",
    "Copies",
    "Each",
    "Engine",
    "Legs",
    "Perturbation",
    "Streaming",
    "Walk",
    "engine_class",
    "is_transposed",
    "layers_of",
    "linear_layers",
    "make_engine",
]
