"""Families of random directions: a seed names one tensor a parameter."""

from bszo.perturb.directions.base import Directions
from bszo.perturb.directions.blocks import Blocks, seed_in_block
from bszo.perturb.directions.column_space import ColumnSpace
from bszo.perturb.directions.cone import Cone
from bszo.perturb.directions.factored import product
from bszo.perturb.directions.gaussian import Gaussian
from bszo.perturb.directions.injected import DirectionFunction, Injected
from bszo.perturb.directions.input_span import InputSpan
from bszo.perturb.directions.law import Law, family_of_law
from bszo.perturb.directions.low_rank import LowRank
from bszo.perturb.directions.numbered import Numbered
from bszo.perturb.directions.outer_product import OuterProduct
from bszo.perturb.directions.padding import Unpadded, padding_rows
from bszo.perturb.directions.partition import Block, Split, partition, repeated_modules
from bszo.perturb.directions.per_example import PerExample
from bszo.perturb.directions.per_example_kept import PerExampleLowRank, PerExampleSubspace
from bszo.perturb.directions.rank_one import RankOne, as_rows
from bszo.perturb.directions.scaled import Scaled
from bszo.perturb.directions.shifted import Shifted
from bszo.perturb.directions.sparse import Mask, MaskScope, Sparse, zeros_of
from bszo.perturb.directions.subspace import Subspace, matrix_shape
from bszo.perturb.directions.weighted import Weighted

__all__ = [
    "Block",
    "Blocks",
    "ColumnSpace",
    "Cone",
    "DirectionFunction",
    "Directions",
    "Gaussian",
    "Injected",
    "InputSpan",
    "Law",
    "LowRank",
    "Mask",
    "MaskScope",
    "Numbered",
    "OuterProduct",
    "PerExample",
    "PerExampleLowRank",
    "PerExampleSubspace",
    "RankOne",
    "Scaled",
    "Shifted",
    "Sparse",
    "Split",
    "Subspace",
    "Unpadded",
    "Weighted",
    "as_rows",
    "family_of_law",
    "matrix_shape",
    "padding_rows",
    "partition",
    "product",
    "repeated_modules",
    "seed_in_block",
    "zeros_of",
]
