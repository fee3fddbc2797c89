"""What a step saw, for logs and tests."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class StepReport:
    """What the last step saw.

    Attributes:
        loss: the loss of the batch at theta (central differences: the mean of both sides).
        observations: directional derivatives, in the order measured.
        mean: (k,) posterior mean; None where there is no belief.
        cov: (k, k) posterior covariance.
        noise_var: variance of an observation after the step.
        gain: least-squares slope of the posterior mean over the observations; 1 is no shrinkage.
        losses: every loss of the step, in the order taken; filled in by `step`.
        reach: the share of each trainable parameter's elements that the step's directions could
            move; empty where that is all of every one; filled in by `step`.
    """

    loss: float
    observations: tuple[float, ...]
    mean: Tensor | None = None
    cov: Tensor | None = None
    noise_var: float | None = None
    gain: float | None = None
    losses: tuple[float, ...] = ()
    reach: tuple[float, ...] = ()


def joined(reports: Sequence[StepReport]) -> StepReport:
    """One report of a step that estimated block by block: beliefs side by side, losses and gains
    averaged."""
    means = [r.mean for r in reports if r.mean is not None]
    covs = [r.cov for r in reports if r.cov is not None]
    gains = [r.gain for r in reports if r.gain is not None]
    return StepReport(
        loss=sum(r.loss for r in reports) / len(reports),
        observations=tuple(y for r in reports for y in r.observations),
        mean=torch.cat(means) if means else None,
        cov=torch.block_diag(*covs) if covs else None,
        noise_var=reports[-1].noise_var,
        gain=sum(gains) / len(gains) if gains else None,
    )
