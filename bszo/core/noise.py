"""The variance of an observation, which is learnt from how far observations fall from what the
belief predicts."""

from torch import Tensor

from bszo.core.posterior import Belief


def residual(belief: Belief, d: Tensor, y: float) -> float:
    """r = (y - d^T mean) / |d|, where the belief is the one before y is taken into account.

    Args:
        belief: over the k directions of the subspace.
        d: (k,) the direction that was observed.
        y: the observed derivative along d.
    """
    return (y - float(d @ belief.mean)) / float(d.norm())


def update_noise_var(noise_var: float, r: float, ema: float, floor: float = 0.0) -> float:
    """noise_var <- max(floor, (1 - ema) noise_var + ema r^2).

    Args:
        noise_var: the variance before this observation.
        r: the residual of the new observation.
        ema: the weight of the new residual, between 0 and 1; the paper calls it alpha.
        floor: the variance never falls below it. It is a variance, not a standard deviation.

    Source: Feng and Huang 2026, arXiv 2601.01452, Eq. 13; the floor is in the authors' code only.
    """
    return max(floor, (1.0 - ema) * noise_var + ema * r * r)
