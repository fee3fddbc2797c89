"""ZO-SGD-Cons: MeZO that compares before it moves."""

import math
from dataclasses import replace
from typing import Unpack

from bszo.optim.mezo import MeZO
from bszo.optim.options import DifferenceOptions, Params
from bszo.optim.report import StepReport
from bszo.perturb import LossOracle, Terms, Weighted


class ZOSGDConservative(MeZO):
    """theta <- argmin L over {theta, theta - lr g z, theta + lr g z}, all on the step's batch.

    g is MeZO's, and so is the mean over q directions. Of equal losses the first wins, so that a
    flat loss moves nothing; a candidate without a finite loss is never taken. Where there is weight
    decay, lr weight_decay theta is taken off whichever is kept. Forward passes a step: 2 q + 3.
    Extra memory: none.

    Args:
        params, lr, eps, num_directions, ...: see MeZO.

    Source: Zhang et al. 2024 (ZO-LLM), arXiv 2402.11592, section 3; Kim et al. 2021 (conservative
        steps).

    Example:
        >>> import torch
        >>> from bszo import ZOSGDConservative
        >>> theta = torch.nn.Parameter(torch.ones(6))
        >>> optimizer = ZOSGDConservative([theta], lr=0.05, eps=1e-3)
        >>> losses = [optimizer.step(lambda: theta.square().sum()) for _ in range(50)]
        >>> losses == sorted(losses, reverse=True)  # on one batch it never climbs
        True
    """

    def __init__(
        self,
        params: Params,
        *,
        lr: float = 1e-6,
        num_directions: int = 1,
        **options: Unpack[DifferenceOptions],
    ) -> None:
        super().__init__(params, lr=lr, num_directions=num_directions, **options)

    def estimate(self, oracle: LossOracle) -> tuple[Terms, StepReport]:
        gradient, report = super().estimate(oracle)
        signs = (0.0, 1.0, -1.0)
        with oracle.along(Weighted(oracle.directions, self.per_parameter("lr"))):
            points = [{seed: -sign * g for seed, g in gradient.items()} for sign in signs[1:]]
            losses = oracle.measure([{}, *points], overflow=math.inf)
        kept = signs[losses.index(min(losses))]
        return {seed: kept * g for seed, g in gradient.items()}, replace(report, loss=losses[0])
