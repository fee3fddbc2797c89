"""BSZO: a step along the posterior mean of the gradient in a random subspace, found by a Kalman
filter."""

from collections.abc import Sequence
from typing import ClassVar, Literal, Unpack

import torch
from torch import Tensor

from bszo.core import (
    condition,
    forward_difference,
    most_uncertain_direction,
    prior,
    residual,
    update_noise_var,
)
from bszo.optim.believing import Believing, Variance
from bszo.optim.hyperparameter import Hyperparameter, flag, one_of, whole
from bszo.optim.options import DifferenceOptions, Params, require, require_rank_read
from bszo.optim.report import StepReport
from bszo.perturb import Directions, Law, Legs, LossOracle, Terms, family_of_law

AdaptNoise = Literal["always", "beyond-k", "never"]


class BSZO(Believing):
    """theta <- theta - lr (B mu + weight_decay theta),  B = [z_1 .. z_k],
    mu = E[B^T grad L | y_1 .. y_m].

    y_tau = (L(theta + eps B d_tau) - L(theta)) / eps observes d_tau^T g with variance noise_var
    |d_tau|^2. The first k directions are the axes, each later one is the most uncertain direction
    of the belief. The prior is N(0, prior_var I_k) at every step; noise_var lives on across steps.

    Forward passes a step: k + 1 with reuse_observations (BSZO, Algorithm 1), m + 1 without (BSZO-B,
    Algorithm 2). Extra memory: O(k^2).

    Args:
        k: directions a step.
        m: observations a step, at least k.
        prior_var: variance of the prior; "auto" is n / 1e6 for n trainable elements, as the authors
            run it.
        noise_var: variance of an observation at the start; "auto" likewise.
        noise_ema: weight of a new squared residual in noise_var; the paper's alpha.
        noise_floor: least noise standard deviation, as a share of the initial one.
        reuse_observations: beyond k take the cached observation of the axis (True), or measure
            again (False).
        adapt_noise: when noise_var is updated: "always", at every observation (as run, and Eq.
            13); "beyond-k", at those beyond k (Algorithm 1 as printed); "never".
        law: of z: gaussian (the paper's), rademacher (+1 and -1 alike), or low-rank
            (`bszo.perturb.OuterProduct`, vectors Gaussian), for which perturbation="factored"
            makes no linear layer's weight.
        rank: of a low-rank z.
        params, lr, eps, weight_decay, seed, perturbation, module, directions, rounding: see
            ZerothOrderOptimizer.

    Source: Feng and Huang 2026, arXiv 2601.01452, Algorithms 1 and 2.

    Example:
        >>> import torch
        >>> from bszo import BSZO
        >>> net = torch.nn.Linear(4, 1).eval()
        >>> optimizer = BSZO(net.parameters(), lr=0.05, eps=1e-3, prior_var=1.0, noise_var=0.01,
        ...                  module=net)
        >>> x, y = torch.eye(4), torch.ones(4, 1)
        >>> losses = [optimizer.step(lambda: (net(x) - y).square().mean()) for _ in range(50)]
        >>> losses[-1] < losses[0]
        True
        >>> optimizer.last.mean.shape, optimizer.last.cov.shape
        (torch.Size([2]), torch.Size([2, 2]))
    """

    published_walk: ClassVar[Legs] = "two-leg"

    k = Hyperparameter[int](whole, lambda k: k >= 1, "at least 1 direction is valid")
    m = Hyperparameter[int](whole, lambda m: m >= 1, "at least k observations are valid")
    reuse_observations = Hyperparameter[bool](flag)
    adapt_noise: Hyperparameter[AdaptNoise] = Hyperparameter(one_of(AdaptNoise))
    law: Hyperparameter[Law] = Hyperparameter(one_of(Law), scope="construction", unsaid="gaussian")
    rank = Hyperparameter[int](
        whole, lambda r: r >= 1, "at least 1 is valid", scope="construction", unsaid=1
    )

    def __init__(
        self,
        params: Params,
        *,
        lr: float = 1e-6,
        k: int = 2,
        m: int = 3,
        prior_var: Variance = "auto",
        noise_var: Variance = "auto",
        noise_ema: float = 0.1,
        noise_floor: float = 0.1,
        reuse_observations: bool = True,
        adapt_noise: AdaptNoise = "always",
        law: Law = "gaussian",
        rank: int = 1,
        **options: Unpack[DifferenceOptions],
    ) -> None:
        self.k, self.m = k, m
        self.prior_var, self.noise_var = prior_var, noise_var  # type: ignore[assignment]
        self.noise_ema, self.noise_floor = noise_ema, noise_floor
        self.reuse_observations, self.adapt_noise = reuse_observations, adapt_noise
        self.law, self.rank = law, rank
        super().__init__(params, lr=lr, **options)
        self.count_parameters()

    def check(self) -> None:
        super().check()
        m, k = self.m, self.k
        require(
            m >= k,
            f"m={m}: at least k={k} observations are valid, one a direction; {k + 1} as the paper"
            " has it",
        )
        require_rank_read(self.law, self.rank)

    def make_family(self, params: Sequence[Tensor]) -> Directions:
        return family_of_law(self.law, params, self.rank)

    def estimate(self, oracle: LossOracle) -> tuple[Terms, StepReport]:
        seeds = self.direction_seeds(self.k)
        belief, noise_var = prior(self.k, self.prior_var), self.noise_var
        f_0, *f_axes = oracle.measure([{}, *({s: self.eps} for s in seeds)])
        observations: list[float] = []  # y_1 .. y_m
        for tau in range(self.m):
            d = _axis(tau, self.k) if tau < self.k else most_uncertain_direction(belief)  # (k,)
            if tau < self.k:
                y = forward_difference(f_axes[tau], f_0, self.eps)
            elif self.reuse_observations:
                y = observations[int(d.abs().argmax())]  # cov stays diagonal, so d is an axis
            else:
                f_plus = oracle.loss(
                    {s: self.eps * float(d_i) for s, d_i in zip(seeds, d, strict=True) if d_i != 0}
                )
                y = forward_difference(f_plus, f_0, self.eps)
            if self.adapt_noise == "always" or (self.adapt_noise == "beyond-k" and tau >= self.k):
                r = residual(belief, d, y)
                noise_var = update_noise_var(noise_var, r, self.noise_ema, self.noise_var_floor)
            belief = condition(belief, d, y, noise_var)
            observations.append(y)
        self.noise_var = noise_var  # not earlier: a step that fails leaves no trace
        axes = torch.tensor(observations[: self.k], dtype=torch.float64, device="cpu")  # (k,)
        gain = float(belief.mean @ axes / (axes @ axes)) if axes.any() else None
        report = StepReport(f_0, tuple(observations), belief.mean, belief.cov, self.noise_var, gain)
        return dict(zip(seeds, belief.mean.tolist(), strict=True)), report


def _axis(i: int, k: int) -> Tensor:
    """The i-th unit vector e_i of R^k."""
    return torch.nn.functional.one_hot(torch.tensor(i, device="cpu"), k).to(torch.float64)
