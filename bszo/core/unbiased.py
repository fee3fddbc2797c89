"""Unbiased directional derivatives from loss values at lengths that are drawn at random.

With Q(a) = (f(theta + a z) - f(theta)) / a and lengths mu_1 > mu_2 > ... -> 0, the derivative along
z is the telescoping sum Q(mu_1) + sum_n [Q(mu_{n+1}) - Q(mu_n)]. An estimator takes one term n of
the sum, with probability p_n, over p_n.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch

Weights = dict[float, float]  # length a -> w of the estimate sum_a w f(theta + a z)


@dataclass(frozen=True)
class Law:
    """The lengths of a telescoping sum, and how likely each of its terms is drawn.

    Cut off after N terms, the sum is Q(mu_{N+1}), and that is what every estimator estimates
    without bias: the forward difference at the least length.

    Attributes:
        lengths: mu_1 > ... > mu_{N+1} > 0.
        probabilities: p_1, ..., p_N, which sum to 1.
    """

    lengths: tuple[float, ...]
    probabilities: tuple[float, ...]

    def term(self, u: float) -> int:
        """The n that u in [0, 1) draws, counted from 0."""
        bounds = list(accumulate(self.probabilities))
        return next((n for n, bound in enumerate(bounds) if u < bound), len(bounds) - 1)


def geometric(mu: float, ratio: float, terms: int) -> Law:
    """mu_n = mu c^(n-1), p_n proportional to c^(n-1), for n up to N; c is `ratio`, N `terms`.

    Raises:
        ValueError: c is not between 0 and 1, or N < 1.

    Source: arXiv 2510.19953 (2025), Corollary 3.3.
    """
    if not 0 < ratio < 1:
        raise ValueError(f"ratio={ratio}: a number between 0 and 1 is valid")
    return _law([mu * ratio**n for n in range(_at_least_1(terms) + 1)])


def zipf(mu: float, exponent: float, terms: int) -> Law:
    """mu_n = mu sum_{j >= n} j^-s / zeta(s), p_n proportional to n^-s, for n up to N; s is
    `exponent`, N `terms`.

    Raises:
        ValueError: s is not greater than 1, so that zeta(s) is infinite, or N < 1.

    Source: arXiv 2510.19953 (2025), Corollary 3.4.
    """
    if not exponent > 1:
        raise ValueError(f"exponent={exponent}: a number greater than 1 is valid")
    first = torch.arange(1, _at_least_1(terms) + 2, dtype=torch.float64, device="cpu")
    tails = torch.special.zeta(torch.full_like(first, exponent), first)  # sum_{j >= n} j^-s
    return _law([mu * tail / float(tails[0]) for tail in tails.tolist()])


def _at_least_1(terms: int) -> int:
    if terms < 1:
        raise ValueError(f"terms={terms}: at least 1 is valid")
    return terms


def _law(lengths: Sequence[float]) -> Law:
    """The law of least variance for these lengths: p_n proportional to mu_n - mu_{n+1}."""
    span = lengths[0] - lengths[-1]
    gaps = [(a - b) / span for a, b in pairwise(lengths)]
    return Law(tuple(lengths), tuple(gaps))


def outcomes(estimator: str, law: Law, n: int) -> list[Weights]:
    """What an estimator may be once term n (from 0) is drawn; all are equally likely.

    P4 = Q(mu_1) + [Q(mu_{n+1}) - Q(mu_n)] / p_n. The others take one of m parts of it at random,
    times m, without which they would estimate the m-th part of the derivative: P3 one of the two
    summands, P2 one of the three quotients, P1 one of the four losses.

    Source: arXiv 2510.19953 (2025), section 2; the factors m are not printed there.
    """
    (mu, now, then), p = (law.lengths[i] for i in (0, n, n + 1)), law.probabilities[n]
    first, minus, plus = _quotient(mu), _quotient(now, -1 / p), _quotient(then, 1 / p)
    parts = {
        "p4": [[first, minus, plus]],
        "p3": [[first], [minus, plus]],
        "p2": [[first], [plus], [minus]],
        "p1": [
            [{0.0: first[0.0] + minus[0.0] + plus[0.0]}],
            *([{a: quotient[a]}] for a, quotient in ((mu, first), (now, minus), (then, plus))),
        ],
    }[estimator]
    return [_sum(part, len(parts)) for part in parts]


def drawn(estimator: str, law: Law, u: float, v: float) -> Weights:
    """The outcome that two independent numbers in [0, 1) draw: u the term, v the part."""
    found = outcomes(estimator, law, law.term(u))
    return found[int(v * len(found))]


def _quotient(a: float, factor: float = 1.0) -> Weights:
    """Q(a) times a factor."""
    return {0.0: -factor / a, a: factor / a}


def _sum(parts: Sequence[Weights], factor: int) -> Weights:
    """The parts added up, times a factor; a loss of weight 0 need not be taken."""
    total: Weights = {}
    for part in parts:
        for a, w in part.items():
            total[a] = total.get(a, 0.0) + factor * w
    return {a: w for a, w in total.items() if w != 0.0}
