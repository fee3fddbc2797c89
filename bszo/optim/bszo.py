"""BSZO: a step along the posterior mean of the gradient in a random subspace, found by a Kalman
filter."""

from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from bszo.core import (
    condition,
    forward_difference,
    most_uncertain_direction,
    prior,
    residual,
    update_noise_var,
)
from bszo.optim.base import (
    Params,
    Perturbation,
    Rounding,
    StepReport,
    ZerothOrderOptimizer,
    require,
)
from bszo.perturb import DirectionFunction, Legs, LossOracle, Terms

AdaptNoise = Literal["always", "beyond-k", "never"]


class BSZO(ZerothOrderOptimizer):
    """theta <- theta - lr B mu,  B = [z_1 .. z_k],  mu = E[B^T grad L | y_1 .. y_m].

    y_tau = (L(theta + eps B d_tau) - L(theta)) / eps observes d_tau^T g with variance noise_var
    |d_tau|^2; the first k directions are the axes, later ones the most uncertain direction of the
    belief. The prior is N(0, prior_var I_k) at every step, noise_var lives on across steps.

    Forward passes a step: k + 1 with reuse_observations (BSZO, Algorithm 1), m + 1 without (BSZO-B,
    Algorithm 2). Extra memory: O(k^2).

    Args:
        k: directions a step.
        m: observations a step, at least k.
        prior_var: variance of the prior; "auto" is n / 1e6 for n trainable elements (as the authors
            run it).
        noise_var: variance of an observation at the start; "auto" likewise.
        noise_ema: weight of a new squared residual in noise_var; the paper's alpha.
        noise_floor: least noise standard deviation, as a share of the initial one.
        reuse_observations: beyond k take the cached observation of the axis (True), or measure
            again (False).
        adapt_noise: update noise_var at every observation (as run, and Eq. 13), at those beyond k
            only (Algorithm 1 as printed), or never.
        params, lr, eps, weight_decay, seed, perturbation, module, directions, rounding: see
            ZerothOrderOptimizer.

    Source: Feng and Huang 2026, arXiv 2601.01452, Algorithms 1 and 2.
    """

    published_walk: ClassVar[Legs] = "two-leg"

    def __init__(
        self,
        params: Params,
        *,
        lr: float = 1e-6,
        k: int = 2,
        m: int = 3,
        eps: float = 1e-4,
        prior_var: float | Literal["auto"] = "auto",
        noise_var: float | Literal["auto"] = "auto",
        noise_ema: float = 0.1,
        noise_floor: float = 0.1,
        reuse_observations: bool = True,
        adapt_noise: AdaptNoise = "always",
        weight_decay: float = 0.0,
        seed: int = 0,
        perturbation: Perturbation = "exact",
        module: nn.Module | None = None,
        directions: DirectionFunction | None = None,
        rounding: Rounding = "nearest",
    ) -> None:
        require(k >= 1, f"k={k}: at least 1 direction is valid")
        require(m >= k, f"m={m}: at least k={k} observations are valid, one a direction")
        require(0 < noise_ema < 1, f"noise_ema={noise_ema}: a number between 0 and 1 is valid")
        require(noise_floor >= 0, f"noise_floor={noise_floor}: a share of at least 0 is valid")
        require(
            adapt_noise in get_args(AdaptNoise),
            f"adapt_noise={adapt_noise!r}: one of {', '.join(get_args(AdaptNoise))} is valid",
        )
        super().__init__(
            params,
            lr=lr,
            eps=eps,
            weight_decay=weight_decay,
            seed=seed,
            perturbation=perturbation,
            module=module,
            directions=directions,
            rounding=rounding,
        )
        auto = sum(p.numel() for p in self.trainable()) / 1e6
        self.k, self.m, self.noise_ema = k, m, noise_ema
        self.reuse_observations, self.adapt_noise = reuse_observations, adapt_noise
        self.prior_var = _variance("prior_var", prior_var, auto)
        self.noise_var = _variance("noise_var", noise_var, auto)
        self.noise_var_floor = noise_floor**2 * self.noise_var

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

    def scalar_state(self) -> dict[str, float]:
        return {
            "noise_var": self.noise_var,
            "noise_var_floor": self.noise_var_floor,
            "prior_var": self.prior_var,
        }


def _variance(name: str, value: float | str, auto: float) -> float:
    valid = value == "auto" or (not isinstance(value, str) and 0 < value < float("inf"))
    require(valid, f"{name}={value!r}: a positive, finite variance or auto is valid")
    return auto if value == "auto" else float(value)


def _axis(i: int, k: int) -> Tensor:
    """e_i in R^k."""
    return torch.nn.functional.one_hot(torch.tensor(i, device="cpu"), k).to(torch.float64)
