"""What is compiled from C for a CPU: noise, and the products of examples' own directions.

A machine without a compiler goes without: `serves` says so, and PyTorch does the work.
"""

from bszo.perturb.compiled.loader import library, maker, serves
from bszo.perturb.compiled.noise import draw, shift
from bszo.perturb.compiled.own import add_own

__all__ = ["add_own", "draw", "library", "maker", "serves", "shift"]
