"""The variance of an observation, learnt from how far observations fall from their prediction."""

from torch import Tensor

from bszo.core.posterior import Belief


def residual(belief: Belief, d: Tensor, y: float) -> float:
    """r = (y - d^T mean) / |d|, with the belief before y is taken in."""
    return (y - float(d @ belief.mean)) / float(d.norm())


def update_noise_var(noise_var: float, r: float, ema: float, floor: float = 0.0) -> float:
    """noise_var <- max(floor, (1 - ema) noise_var + ema r^2).

    Args:
        noise_var: the variance so far.
        r: residual of the new observation.
        ema: weight of the new residual in (0, 1); the paper's alpha.
        floor: the least variance (a variance, not a standard deviation).

    Source: Feng and Huang 2026, arXiv 2601.01452, Eq. 13; the floor is in the authors' code only.
    """
    return max(floor, (1.0 - ema) * noise_var + ema * r * r)
