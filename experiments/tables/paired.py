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
    if len(set(differences)) == 1:  # a test needs two that differ
        return f"{mean} ({len(differences)})"
    return f"{mean} (p = {ttest_rel(own, theirs).pvalue:.2g}; {len(differences)})"
