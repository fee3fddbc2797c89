"""MeZO: differences of losses along Gaussian directions."""

import inspect
import math
from typing import Literal, Unpack

from bszo.core import Law, Weights, central_difference, clipped, drawn, geometric, zipf
from bszo.optim.base import ZerothOrderOptimizer
from bszo.optim.hyperparameter import Hyperparameter, number, number_or_none, one_of, whole
from bszo.optim.options import DifferenceOptions, Params, require
from bszo.optim.report import StepReport
from bszo.perturb import LossOracle, Terms, mix64

Estimator = Literal["central", "forward", "p1", "p2", "p3", "p4"]
LawName = Literal["geometric", "zipf"]
UNIT = 2.0**-53  # the top 53 bits of a hash, times this, are a number in [0, 1)


# the law's arguments, which P1 to P4 read
USUAL_LAW = {"law": "geometric", "law_ratio": 0.5, "law_exponent": 4.0, "law_terms": 4}


class MeZO(ZerothOrderOptimizer):
    """theta <- theta - lr (g z + weight_decay theta),
    g = (L(theta + eps z) - L(theta - eps z)) / (2 eps).

    With q directions the estimate is the mean of q such g z (n-SPSA). Forward passes a step: 2 q.
    Extra memory: none.

    With a clip C the step takes max(-C, min(C, g)) in the place of each g, so that no batch moves
    theta by more than lr C |z|. On the scales of a quantised base (tuning=scales) this is QZO.

    Other estimates g of z^T grad L, with Q(a) = (L(theta + a z) - L(theta)) / a, lengths eps = mu_1
    > ... > mu_{N+1} and a term n that is drawn with probability p_n anew for each direction:

        forward  Q(eps)                                            q + 1 passes
        p4       Q(mu_1) + [Q(mu_{n+1}) - Q(mu_n)] / p_n           at most 3 q + 1
        p3       one of the two summands, times 2                  at most 2 q + 1
        p2       one of the three quotients, times 3               q + 1
        p1       one of the four losses with its weight, times 4   at most q

    Each of p1 to p4 has the mean Q(mu_{N+1}): the bias of a forward difference that is as short as
    that. Rounding of the losses weighs like 1 / (mu_n^2 p_n), so that a longer sum has less bias
    and more noise; the infinite one has infinite variance. The term and the part are functions of
    (seed, step, direction), and nothing is to be saved for them.

    Args:
        num_directions: q.
        clip: C, for every estimator; None takes g as it is.
        estimator: central, forward, or p1, p2, p3, p4.
        law: of p1 to p4. geometric: mu_n = eps c^(n-1); zipf: mu_n = eps sum_{j >= n} j^-s /
            zeta(s). Both have p_n proportional to mu_n - mu_{n+1}, which has the least variance.
        law_ratio: c.
        law_exponent: s.
        law_terms: N.
        params, lr, eps, weight_decay, seed, perturbation, module, directions, rounding: see
            ZerothOrderOptimizer.

    Raises:
        OptimError: an argument is out of range; an estimator other than central, or a clip, is
            given to a subclass that has no such argument.

    Source: Malladi et al. 2023, arXiv 2305.17333, Algorithm 1 and Definition 1; p1 to p4: arXiv
        2510.19953 (2025), section 2, with the factors 2, 3 and 4 that are not printed there; the
        clip: Shang et al. 2025, arXiv 2505.13430 (QZO, directional derivative clipping).

    Example:
        >>> import torch
        >>> from bszo import MeZO
        >>> net = torch.nn.Linear(4, 1).eval()
        >>> optimizer = MeZO(net.parameters(), lr=0.01, eps=1e-3, module=net)
        >>> x, y = torch.eye(4), torch.ones(4, 1)
        >>> losses = [optimizer.step(lambda: (net(x) - y).square().mean()) for _ in range(50)]
        >>> losses[-1] < losses[0], optimizer.num_forwards
        (True, 100)
    """

    num_directions = Hyperparameter[int](whole, lambda q: q >= 1, "at least 1 is valid")
    clip = Hyperparameter[float | None](
        number_or_none,
        lambda c: c is None or 0 < c < math.inf,
        "null, or a positive, finite number, is valid",
        unsaid=None,
    )
    estimator: Hyperparameter[Estimator] = Hyperparameter(one_of(Estimator), unsaid="central")
    law: Hyperparameter[LawName] = Hyperparameter(one_of(LawName), unsaid="geometric")
    law_ratio = Hyperparameter[float](
        number, lambda c: 0 < c < 1, "a number between 0 and 1 is valid", unsaid=0.5
    )
    law_exponent = Hyperparameter[float](
        number, lambda s: 1 < s <= 64, "a number greater than 1, at most 64, is valid", unsaid=4.0
    )
    law_terms = Hyperparameter[int](
        whole, lambda n: 1 <= n <= 64, "1 to 64 terms are valid", unsaid=4
    )

    def __init__(
        self,
        params: Params,
        *,
        lr: float = 1e-6,
        num_directions: int = 1,
        clip: float | None = None,
        estimator: Estimator = "central",
        law: LawName = "geometric",
        law_ratio: float = 0.5,
        law_exponent: float = 4.0,
        law_terms: int = 4,
        **options: Unpack[DifferenceOptions],
    ) -> None:
        self.num_directions, self.clip = num_directions, clip
        self.estimator, self.law, self.law_terms = estimator, law, law_terms
        self.law_ratio, self.law_exponent = law_ratio, law_exponent
        names = inspect.signature(type(self)).parameters
        require(
            estimator == "central" or "estimator" in names,
            f"estimator={estimator!r}: {type(self).__name__} has the estimator central alone; the"
            " others are MeZO's",
        )
        require(
            clip is None or "clip" in names,
            f"clip={clip!r}: {type(self).__name__} takes every slope as it is; a clip is MeZO's",
        )
        given = {name: getattr(self, name) for name in USUAL_LAW}
        read = {"law", "law_terms", "law_exponent" if law == "zipf" else "law_ratio"}
        for name in given if estimator in ("central", "forward") else given.keys() - read:
            require(
                given[name] == USUAL_LAW[name],
                f"{name}={given[name]!r}: nothing reads it with estimator={estimator!r},"
                f" law={law!r}; {USUAL_LAW[name]!r} is valid",
            )
        super().__init__(params, lr=lr, **options)

    def estimate(self, oracle: LossOracle) -> tuple[Terms, StepReport]:
        if self.estimator != "central":
            return self._weighted(oracle)
        gradient: dict[int, float] = {}
        losses: list[float] = []
        observations: list[float] = []
        seeds = self.direction_seeds(self.num_directions)
        sides = oracle.measure([{seed: c} for seed in seeds for c in (self.eps, -self.eps)])
        for seed, f_plus, f_minus in zip(seeds, sides[::2], sides[1::2], strict=True):
            y = central_difference(f_plus, f_minus, self.eps)
            gradient[seed] = clipped(y, self.clip) / self.num_directions
            observations.append(y)
            losses.append((f_plus + f_minus) / 2)
        return gradient, StepReport(sum(losses) / len(losses), tuple(observations))

    def _weighted(self, oracle: LossOracle) -> tuple[Terms, StepReport]:
        """g as a weighted sum of losses; the loss at theta serves all directions.

        The loss that is reported is the one at theta, and the mean of all where it was not taken.
        """
        weights = self._weights()
        points = _points(weights)
        losses = dict(zip(points, oracle.measure([dict(p) for p in points]), strict=True))
        observed = {
            seed: sum(w * losses[_point(seed, a)] for a, w in own.items())
            for seed, own in weights.items()
        }
        loss = losses.get((), sum(losses.values()) / len(losses))
        gradient = {
            seed: clipped(y, self.clip) / self.num_directions for seed, y in observed.items()
        }
        return gradient, StepReport(loss, tuple(observed.values()))

    def _weights(self) -> dict[int, Weights]:
        """seed -> {a: w} of the estimate sum_a w L(theta + a z), as this step draws it."""
        seeds = self.direction_seeds(self.num_directions)
        if self.estimator == "forward":
            return {seed: {0.0: -1 / self.eps, self.eps: 1 / self.eps} for seed in seeds}
        law = self._law()
        return {
            seed: drawn(self.estimator, law, *((mix64(seed, -5, i) >> 11) * UNIT for i in (0, 1)))
            for seed in seeds
        }

    def _law(self) -> Law:
        if self.law == "zipf":
            return zipf(self.eps, self.law_exponent, self.law_terms)
        return geometric(self.eps, self.law_ratio, self.law_terms)

    def next_forwards(self) -> int | None:
        if self.estimator == "central":
            return None
        blocks = self._restricted.blocks if self._restricted else []
        count = 0
        try:
            for self._block in range(max(1, len(blocks))):
                count += len(_points(self._weights()))
        finally:
            self._block = 0
        return count


Point = tuple[tuple[int, float], ...]  # the terms of a point, to look it up by


def _point(seed: int, a: float) -> Point:
    return ((seed, a),) if a else ()


def _points(weights: dict[int, Weights]) -> list[Point]:
    """The points of all directions, each once, in the order in which they are asked for."""
    return list(dict.fromkeys(_point(seed, a) for seed, own in weights.items() for a in own))
