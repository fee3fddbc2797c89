"""Maths on (k,) and (k, k) tensors in float64 on the CPU; it knows no neural network."""

from bszo.core.differences import central_difference, forward_difference
from bszo.core.noise import residual, update_noise_var
from bszo.core.posterior import Belief, condition, most_uncertain_direction, prior

__all__ = [
    "Belief",
    "central_difference",
    "condition",
    "forward_difference",
    "most_uncertain_direction",
    "prior",
    "residual",
    "update_noise_var",
]
