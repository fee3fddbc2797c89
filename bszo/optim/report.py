"""Step report: the numbers that a step saw, for logs, guards and tests."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class StepReport:
    """The numbers that one step saw. What a method does not have is None or empty.

    Attributes:
        loss: the loss of the batch at theta. A method that does not evaluate theta itself gives the
            mean of the losses that it took: of both sides, for central differences.
        observations: the directional derivatives, in the order in which they were measured.
        mean: (k,) mean of the posterior belief.
        cov: (k, k) covariance of the posterior belief.
        noise_var: the variance of an observation, as it is after the step.
        gain: the slope of a least-squares line through 0 of the posterior mean over the
            observations; 1 means that nothing was shrunk.
        losses: every loss of the step, in the order in which they were taken; `step` fills it in.
        reach: the share of each trainable parameter's elements that the step's directions could
            move; empty means all of them; `step` fills it in.
        examples: losses that each pass has shown: one, or one an example of the batch.
    """

    loss: float
    observations: tuple[float, ...]
    mean: Tensor | None = None
    cov: Tensor | None = None
    noise_var: float | None = None
    gain: float | None = None
    losses: tuple[float, ...] = ()
    reach: tuple[float, ...] = ()
    examples: int = 1


def joined(reports: Sequence[StepReport]) -> StepReport:
    """Join the reports of a step that estimated block by block into one.

    Observations and means follow one another, covariances become the blocks of one matrix, and
    losses and gains are averaged.
    """
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
