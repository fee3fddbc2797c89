"""BSZO with directions for each example of a batch: k directions an example in k + 1 passes."""

import math
import statistics
from typing import Literal, Unpack

from bszo.core import forward_difference, update_noise_var
from bszo.optim.believing import Believing, Variance
from bszo.optim.hyperparameter import Hyperparameter, one_of, whole
from bszo.optim.options import Params, require
from bszo.optim.per_example import OwnOptions, PerExampleOptimizer, own_seeds
from bszo.optim.report import StepReport
from bszo.perturb import LossOracle, Terms

Update = Literal["posterior", "mean", "z-score"]


class EachBSZO(Believing, PerExampleOptimizer):
    """theta <- theta - lr (mean_e sum_i mu_ei z_ei + weight_decay theta),
    mu_ei = E[z_ei^T grad l_e | y_e1 .. y_ek],
    y_ei = (l_e(theta + eps z_ei) - l_e(theta)) / eps,  e = 1 .. B, i = 1 .. k.

    l_e is the loss of example e, and z_ei are its own directions in the weights of linear layers,
    and in vectors and embeddings where asked; all else stays (`PerExampleOptimizer`, which also
    says what the closure returns). Each example has a belief of its own, N(0, prior_var I_k) at
    every step, and all share the variance of an observation, which B residuals teach at once:

        noise_var <- (1 - noise_ema) noise_var + noise_ema mean_e y_ei^2      for i = 1 .. k,
        mu_ei = prior_var / (prior_var + noise_var) y_ei,

    where noise_var never falls below (noise_floor)^2 times what it was at first.

    So for each i the filter multiplies the B observations y_ei by one number below 1, which is
    smaller where slopes are large: a learning rate that shortens itself, as the z-score's does. It
    sums over i where "mean" divides by k, so that a rate for "mean" may be k times as large. With a
    batch of one example this is `BSZO` with m = k along low-rank directions.

    Forward passes a step: k + 1, without a perturbed weight. Extra memory: 4 r (m + n) B k bytes a
    layer during a step.

    Args:
        k: directions an example and step.
        update: "posterior", the rule above; "mean" takes y_ei / k in place of mu_ei; "z-score"
            divides that by the population deviation of all B k observations y_ei, so that a step
            does not depend on the loss's scale: about lr sqrt(n / (B k)) long for n elements that
            move, its mean at most lr; the rule of `FZOO`, for losses that differ between examples
            at theta already. Where the deviation is 0, nothing moves. Both leave the belief's
            settings unread.
        prior_var: variance of the prior; "auto" is n / 1e6 for n trainable elements, as for BSZO.
        noise_var: variance of an observation at the start; "auto" likewise.
        noise_ema: weight of new squared residuals in noise_var.
        noise_floor: least noise standard deviation, as a share of the initial one.
        rank: r.
        distribution, vectors, embeddings, subspace, subspace_interval, stacked, momentum, module,
            params, lr, eps, weight_decay, seed, directions, rounding: see PerExampleOptimizer.

    Raises:
        OptimError: see PerExampleOptimizer; from `step`, the z-score of a single difference.

    Source: ours, from Feng and Huang 2026, arXiv 2601.01452, Algorithm 1, and Wen et al. 2018
        (Flipout), arXiv 1803.04386.

    Example:
        >>> import torch
        >>> from bszo import EachBSZO
        >>> net = torch.nn.Linear(4, 1, bias=False).eval()
        >>> optimizer = EachBSZO(net.parameters(), lr=0.05, prior_var=1.0, noise_var=0.01,
        ...                      module=net)
        >>> x, y = torch.eye(4), torch.ones(4, 1)
        >>> losses = [optimizer.step(lambda: (net(x) - y).square()[:, 0]) for _ in range(50)]
        >>> losses[-1] < losses[0], optimizer.num_forwards
        (True, 150)
    """

    k = Hyperparameter[int](whole, lambda k: k >= 1, "at least 1 direction is valid")
    update: Hyperparameter[Update] = Hyperparameter(one_of(Update))

    def __init__(
        self,
        params: Params,
        *,
        lr: float = 1e-6,
        eps: float = 1e-3,
        k: int = 2,
        update: Update = "posterior",
        prior_var: Variance = "auto",
        noise_var: Variance = "auto",
        noise_ema: float = 0.1,
        noise_floor: float = 0.1,
        **options: Unpack[OwnOptions],
    ) -> None:
        self.k, self.update = k, update
        self.prior_var, self.noise_var = prior_var, noise_var  # type: ignore[assignment]
        self.noise_ema, self.noise_floor = noise_ema, noise_floor
        super().__init__(params, lr=lr, eps=eps, **options)
        self.count_parameters()

    def estimate(self, oracle: LossOracle) -> tuple[Terms, StepReport]:
        own = [own_seeds(seed) for seed in self.direction_seeds(self.k)]
        at_theta, *at_axes = oracle.measure_each(
            [(own[0], 0.0), *((seeds_of, self.eps) for seeds_of in own)], at_once=self.stacked
        )
        slopes = [  # y_ei: a list an axis, in which each example has its own
            [forward_difference(f, f_0, self.eps) for f, f_0 in zip(axis, at_theta, strict=True)]
            for axis in at_axes
        ]
        factors, noise_var = self._factors(slopes)
        self.noise_var = noise_var
        count = len(at_theta)
        gradient = {
            seed: factor * y / count
            for seeds_of, factor, axis in zip(own, factors, slopes, strict=True)
            for seed, y in zip(seeds_of(count), axis, strict=True)
        }
        observations = tuple(y for axis in slopes for y in axis)
        squares = [math.fsum(y * y for y in axis) for axis in slopes]
        gain = None
        if self.update == "posterior" and any(squares):
            gain = sum(f * s for f, s in zip(factors, squares, strict=True)) / math.fsum(squares)
        return gradient, StepReport(
            statistics.fmean(at_theta),
            observations,
            noise_var=noise_var,
            gain=gain,
            examples=count,
        )

    def _factors(self, slopes: list[list[float]]) -> tuple[list[float], float]:
        """What multiplies the observations of each axis, and the noise variance afterwards."""
        noise_var = self.noise_var
        if self.update == "posterior":
            factors = []
            for axis in slopes:
                r = math.sqrt(statistics.fmean(y * y for y in axis))
                noise_var = update_noise_var(noise_var, r, self.noise_ema, self.noise_var_floor)
                factors.append(self.prior_var / (self.prior_var + noise_var))
            return factors, noise_var
        spread = 1.0
        if self.update == "z-score":
            observations = [y for axis in slopes for y in axis]
            require(
                len(observations) > 1,
                "update='z-score': a batch of one example and k=1 give one difference, which has no"
                " deviation; k=2 is valid, or update='mean'",
            )
            spread = statistics.pstdev(observations)
        return [1 / (len(slopes) * spread) if spread else 0.0] * len(slopes), noise_var
