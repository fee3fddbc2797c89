"""The maths of the subspace: (k,) and (k, k) tensors in float64 on the CPU.

Nothing here knows that a neural network exists.
"""

from bszo.core.differences import central_difference, clipped, forward_difference
from bszo.core.noise import residual, update_noise_var
from bszo.core.posterior import Belief, condition, most_uncertain_direction, prior
from bszo.core.unbiased import Law, Weights, drawn, geometric, outcomes, zipf

__all__ = [
    "Belief",
    "Law",
    "Weights",
    "central_difference",
    "clipped",
    "condition",
    "drawn",
    "forward_difference",
    "geometric",
    "most_uncertain_direction",
    "outcomes",
    "prior",
    "residual",
    "update_noise_var",
    "zipf",
]
