"""The law of a method's directions, where it has a choice of several."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from bszo.perturb.directions.base import Directions
from bszo.perturb.directions.gaussian import Gaussian
from bszo.perturb.directions.outer_product import OuterProduct

Law = Literal["gaussian", "rademacher", "low-rank"]


def family_of_law(law: Law, params: Sequence[Tensor], rank: int) -> Directions:
    """Return the family whose elements are N(0, 1) ("gaussian") or +1 and -1 alike ("rademacher"),
    or whose matrices are A B^T / sqrt(rank) with Gaussian A and B ("low-rank")."""
    return OuterProduct(params, rank) if law == "low-rank" else Gaussian(params, law)
