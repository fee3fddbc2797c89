"""Noise: what a seed means, element by element, on every device."""

from bszo.perturb.noise.eager import (
    bits,
    bits_of_seeds,
    shift,
    values,
    values_at,
    values_of_all,
    values_of_keys,
)
from bszo.perturb.noise.rounding import add, check_rounding, round_to
from bszo.perturb.noise.seeds import keys_of_seeds, mix64
from bszo.perturb.noise.spec import NOISE_VERSION, Distribution, Terms

__all__ = [
    "NOISE_VERSION",
    "Distribution",
    "Terms",
    "add",
    "bits",
    "bits_of_seeds",
    "check_rounding",
    "keys_of_seeds",
    "mix64",
    "round_to",
    "shift",
    "values",
    "values_at",
    "values_of_all",
    "values_of_keys",
]
