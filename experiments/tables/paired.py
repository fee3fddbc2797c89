"""Paired differences: one method's runs against another's, which differ from them in nothing
else."""

import statistics
from collections.abc import Sequence

from scipy.stats import ttest_rel


def difference(own: Sequence[float], theirs: Sequence[float]) -> str:
    """Mean of own minus theirs over the pairs, the p of a paired t-test, and how many pairs:
    "+1.20 (p = 0.4; 18)"."""
    differences = [a - b for a, b in zip(own, theirs, strict=True)]
    mean = f"{statistics.fmean(differences):+.2f}"
    p = p_value(own, theirs)
    return f"{mean} ({'' if p is None else f'p = {p:.2g}; '}{len(differences)})"


def p_value(own: Sequence[float], theirs: Sequence[float]) -> float | None:
    """The p of a paired t-test; None where no two differences differ, in per cent beyond the
    rounding of a float: a test needs two."""
    differences = [a - b for a, b in zip(own, theirs, strict=True)]
    if max(differences) - min(differences) < 1e-9:
        return None
    return float(ttest_rel(own, theirs).pvalue)
