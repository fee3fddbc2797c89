"""ES: evolution strategies, one rule whose settings are ES at scale, EGGROLL and FZOO."""

import statistics
from collections.abc import Sequence
from typing import Literal, Unpack

from torch import Tensor

from bszo.optim.base import ZerothOrderOptimizer
from bszo.optim.hyperparameter import Hyperparameter, flag, one_of, whole
from bszo.optim.options import OwnLengthOptions, Params, require, require_rank_read
from bszo.optim.report import StepReport
from bszo.perturb import Directions, Law, LossOracle, Terms, family_of_law

Baseline = Literal["mean", "L_0"]
Deviation = Literal["sample", "population"]
Score = Literal["z-score", "difference"]
Weight = Literal["1/N", "1/sqrt(N)"]


class ES(ZerothOrderOptimizer):
    """theta <- theta - lr (w sum_i (L_i - b) / s z_i + weight_decay theta),
    L_i = L(theta + eps z_i), i = 1 .. N.

    b is the mean of L_1 .. L_N or L(theta), s their standard deviation or eps, w is 1/N or
    1/sqrt(N). The step is zero where s is zero. Forward passes a step: N, and one for L(theta)
    where it is the baseline; N is `num_directions`, or twice that where each z comes with -z. Extra
    memory: none.

    | method | settings |
    | --- | --- |
    | ES at scale | the defaults; its alpha is lr |
    | EGGROLL | law="low-rank", antithetic=True, weight="1/sqrt(N)" |
    | FZOO | baseline="L_0", law="rademacher": the class `FZOO` |

    Args:
        num_directions: the number of z, at least 2.
        baseline: b.
        score: s is the deviation ("z-score"), so that lr is the length of a step whatever the
            loss's scale, or eps ("difference"), so that the sum is a gradient.
        deviation: it divides the sum of squares by N - 1 ("sample") or by N ("population").
        law: of z: gaussian, rademacher (+1 and -1 alike), or low-rank (`bszo.perturb.OuterProduct`,
            vectors Gaussian).
        rank: of a low-rank z.
        antithetic: each z comes with -z. The baseline cancels then.
        weight: w.
        params, lr, eps, weight_decay, seed, perturbation, module, directions, rounding: see
            ZerothOrderOptimizer.

    Raises:
        OptimError: antithetic with baseline="L_0", whose forward pass would change nothing.

    Source: "ES at scale" 2025, arXiv 2509.24372; "EGGROLL" 2025, arXiv 2511.16652; both as their
        public code runs.

    Example:
        >>> import torch
        >>> from bszo import ES
        >>> theta = torch.nn.Parameter(torch.ones(6, 5))
        >>> optimizer = ES([theta], lr=0.02, num_directions=8, law="low-rank", antithetic=True)
        >>> losses = [optimizer.step(lambda: theta.square().sum()) for _ in range(50)]
        >>> losses[-1] < losses[0], optimizer.num_forwards
        (True, 800)
    """

    num_directions = Hyperparameter[int](
        whole, lambda n: n >= 2, "at least 2 are valid: one has no spread"
    )
    deviation: Hyperparameter[Deviation] = Hyperparameter(one_of(Deviation), unsaid="sample")
    baseline: Hyperparameter[Baseline] = Hyperparameter(one_of(Baseline))
    score: Hyperparameter[Score] = Hyperparameter(one_of(Score))
    law: Hyperparameter[Law] = Hyperparameter(one_of(Law), scope="construction")
    rank = Hyperparameter[int](whole, lambda r: r >= 1, "at least 1 is valid", scope="construction")
    antithetic = Hyperparameter[bool](flag)
    weight: Hyperparameter[Weight] = Hyperparameter(one_of(Weight))

    def __init__(
        self,
        params: Params,
        *,
        lr: float = 5e-4,
        eps: float = 1e-3,
        num_directions: int = 30,
        baseline: Baseline = "mean",
        score: Score = "z-score",
        deviation: Deviation = "sample",
        law: Law = "gaussian",
        rank: int = 1,
        antithetic: bool = False,
        weight: Weight = "1/N",
        **options: Unpack[OwnLengthOptions],
    ) -> None:
        self.num_directions, self.baseline, self.score = num_directions, baseline, score
        self.deviation, self.law, self.rank = deviation, law, rank
        self.antithetic, self.weight = antithetic, weight
        super().__init__(params, lr=lr, eps=eps, **options)

    def check(self) -> None:
        super().check()
        require(
            not (self.antithetic and self.baseline == "L_0"),
            "baseline='L_0' with antithetic=True: a baseline cancels between z and -z, so that its"
            " forward pass would be lost; mean is valid",
        )
        require_rank_read(self.law, self.rank)

    def make_family(self, params: Sequence[Tensor]) -> Directions:
        return family_of_law(self.law, params, self.rank)

    def estimate(self, oracle: LossOracle) -> tuple[Terms, StepReport]:
        seeds, eps = self.direction_seeds(self.num_directions), self.eps
        sides = (1.0, -1.0) if self.antithetic else (1.0,)
        points: list[Terms] = [{seed: side * eps} for seed in seeds for side in sides]
        at_theta = self.baseline == "L_0"
        losses = oracle.measure([{}, *points] if at_theta else points)
        base = losses.pop(0) if at_theta else statistics.fmean(losses)
        deviation = statistics.stdev if self.deviation == "sample" else statistics.pstdev
        spread = deviation(losses) if self.score == "z-score" else eps
        count = len(losses) if self.weight == "1/N" else len(losses) ** 0.5
        unit = 1 / (count * spread) if spread else 0.0
        changes = [loss - base for loss in losses]
        if self.antithetic:
            changes = [a - b for a, b in zip(changes[::2], changes[1::2], strict=True)]
        gradient = {seed: change * unit for seed, change in zip(seeds, changes, strict=True)}
        return gradient, StepReport(base, tuple(c / (len(sides) * eps) for c in changes))
