"""The Gaussian belief over the subspace gradient, and its Kalman update (section 3 of the
paper)."""

from typing import NamedTuple

import torch
from torch import Tensor


class Belief(NamedTuple):
    """g ~ N(mean, cov): what is believed about the subspace gradient g = B^T grad L.

    Attributes:
        mean: (k,) float64.
        cov: (k, k) float64, symmetric and positive definite.
    """

    mean: Tensor
    cov: Tensor


def prior(k: int, prior_var: float) -> Belief:
    """g ~ N(0, prior_var I_k).

    Raises:
        ValueError: k < 1, or prior_var not a positive finite number.
    """
    if k < 1:
        raise ValueError(f"k={k}: a subspace has at least one direction")
    if not 0 < prior_var < float("inf"):
        raise ValueError(f"prior_var={prior_var}: a prior variance is positive and finite")
    cov = prior_var * torch.eye(k, dtype=torch.float64, device="cpu")
    return Belief(torch.zeros_like(cov[0]), cov)


def condition(belief: Belief, d: Tensor, y: float, noise_var: float) -> Belief:
    """The belief after seeing y = d^T g + nu, nu ~ N(0, noise_var |d|^2).

    K = cov d / (d^T cov d + noise_var |d|^2), mean <- mean + K (y - d^T mean), cov <- cov - K d^T
    cov.

    Args:
        belief: the belief before.
        d: (k,) the direction in the subspace.
        y: the observed derivative along d.
        noise_var: the variance of y for a direction of length 1; 0 says that y is exact.

    Raises:
        ValueError: noise_var is negative, or d observes nothing new: it is 0, or noise_var is 0 and
            g is already known along it.

    Source: Feng and Huang 2026, arXiv 2601.01452, section 3 and Algorithm 1.
    """
    if noise_var < 0:
        raise ValueError(f"noise_var={noise_var}: a variance is not negative")
    d = d.to(torch.float64)
    cov_d = belief.cov @ d  # (k,)
    innovation_var = float(d @ cov_d + noise_var * (d @ d))
    if innovation_var <= 0:
        raise ValueError(
            "the observation has no variance: d is zero, or g is already known along it"
        )
    gain = cov_d / innovation_var  # (k,)
    mean = belief.mean + gain * (y - float(d @ belief.mean))
    cov = belief.cov - torch.outer(gain, cov_d)
    return Belief(mean, (cov + cov.T) / 2)  # rounding must not make it asymmetric


def most_uncertain_direction(belief: Belief) -> Tensor:
    """argmax over unit d of d^T cov d: the principal eigenvector of cov, (k,).

    Where cov is diagonal, which sampling along axes keeps it, the result is the axis of its largest
    entry, and the first such axis if several are equal; an eigensolver could return any mixture of
    these. The sign is chosen so that the entry of d with the largest magnitude is positive. No
    observation depends on it.
    """
    diagonal = torch.diagonal(belief.cov)
    if torch.equal(belief.cov, torch.diag(diagonal)):
        d = torch.zeros_like(diagonal)
        d[int(torch.argmax(diagonal))] = 1.0
        return d
    d = torch.linalg.eigh(belief.cov).eigenvectors[:, -1]
    return d * torch.sign(d[int(torch.argmax(d.abs()))])
