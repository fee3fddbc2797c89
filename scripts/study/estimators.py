"""Errors of directional derivatives from loss values: central and forward differences, and P1 to
P4, over the length and over the losses' noise.

    python -m scripts.study.estimators    # seconds on one core; results/measured/estimators.json

For each of a few hundred directions z the error g - z^T grad f is squared and averaged over all
that an estimator may draw, each with its probability: the draw of the term adds no noise of its own
to the numbers. Losses are float64, or rounded to float32. Errors of the losses of deviation delta,
drawn anew for each, add delta^2 sum_a w_a^2 to the square; that is computed, not drawn. All errors
are shares of the root mean square of z^T grad f.
"""

import argparse
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bszo.core import Law, Weights, geometric, outcomes, zipf
from experiments.records.provenance import of_script
from experiments.tables.sources import MEASURED

DIMENSION, DIRECTIONS = 20, 256
LENGTHS = tuple(10.0 ** (-j / 4) for j in range(2, 21))  # 0.3 to 1e-5
TERMS = tuple(range(1, 25))
NOISES = (0.0, 1e-12, 1e-9, 6e-8)  # the last is what rounding to float32 does to a loss near 1
MU = 1e-3  # where the number of terms is varied
LONG = 12  # terms of P1 to P3, and of the longer P4

Line = Callable[[float], Tensor]  # a -> f(theta + a z) of every direction z
Outcomes = list[tuple[float, Weights]]  # probability, weights


def problem() -> tuple[Line, Tensor]:
    """f(x) = 1 + sum_i sin(x_i) / n + (u^T x)^2 / 2 along all directions, and z^T grad f."""
    generator = torch.Generator().manual_seed(0)
    theta, u = torch.randn(2, DIMENSION, dtype=torch.float64, generator=generator)
    z = torch.randn(DIRECTIONS, DIMENSION, dtype=torch.float64, generator=generator)
    u /= DIMENSION**0.5

    def along(a: float) -> Tensor:
        x = theta + a * z
        return 1.0 + x.sin().mean(-1) + (x @ u).square() / 2

    return along, z @ (theta.cos() / DIMENSION + (theta @ u) * u)


def central(mu: float) -> Outcomes:
    return [(1.0, {mu: 0.5 / mu, -mu: -0.5 / mu})]


def forward(mu: float) -> Outcomes:
    return [(1.0, {0.0: -1 / mu, mu: 1 / mu})]


def richardson(mu: float) -> Outcomes:
    """(4 D(mu / 2) - D(mu)) / 3 with the central difference D, which takes P4's four losses."""
    return [(1.0, {mu / 2: 4 / 3 / mu, -mu / 2: -4 / 3 / mu, mu: -1 / 6 / mu, -mu: 1 / 6 / mu})]


def of_law(estimator: str, law: Law) -> Outcomes:
    """All that P1 to P4 may draw."""
    return [
        (p / len(found), weights)
        for n, p in enumerate(law.probabilities)
        for found in [outcomes(estimator, law, n)]
        for weights in found
    ]


def estimators() -> dict[str, Callable[[float], Outcomes]]:
    """Name -> outcomes at a length, of all that are compared."""

    def cut(estimator: str, terms: int) -> Callable[[float], Outcomes]:
        return lambda mu: of_law(estimator, geometric(mu, 0.5, terms))

    return {
        "central": central,
        "forward": forward,
        "Richardson": richardson,
        "P4, 4 terms": cut("p4", 4),
        f"P4, {LONG} terms": cut("p4", LONG),
        f"P4, Zipf, {LONG} terms": lambda mu: of_law("p4", zipf(mu, 4.0, LONG)),
        **{f"{name.upper()}, {LONG} terms": cut(name, LONG) for name in ("p3", "p2", "p1")},
    }


def passes(found: Outcomes) -> float:
    """Losses a direction, on average."""
    return sum(p * len(weights) for p, weights in found)


def error(
    found: Outcomes,
    along: Line,
    slope: Tensor,
    noise: float = 0.0,
    dtype: torch.dtype | None = None,
) -> float:
    """The root mean square error over the root mean square slope."""
    losses: dict[float, Tensor] = {}
    total = torch.zeros_like(slope)
    for p, weights in found:
        estimate = torch.zeros_like(slope)
        for a, w in weights.items():
            if a not in losses:
                losses[a] = along(a).to(dtype or slope.dtype).to(slope.dtype)
            estimate += w * losses[a]
        squared = noise**2 * sum(w * w for w in weights.values())
        total += p * ((estimate - slope).square() + squared)
    return math.sqrt(float(total.mean() / slope.square().mean()))


def measure(lengths: Sequence[float], terms: Sequence[int]) -> dict[str, Any]:
    """Errors by estimator over the length, and of P4 over the number of terms."""
    along, slope = problem()
    by_length = [
        {
            "estimator": name,
            "passes": passes(make(MU)),
            "float64": [error(make(mu), along, slope) for mu in lengths],
            "float32": [error(make(mu), along, slope, dtype=torch.float32) for mu in lengths],
        }
        for name, make in estimators().items()
    ]
    by_terms = [
        {
            "noise": noise,
            "central": error(central(MU), along, slope, noise),
            "p4": [error(of_law("p4", geometric(MU, 0.5, n)), along, slope, noise) for n in terms],
        }
        for noise in NOISES
    ]
    return {
        "lengths": list(lengths),
        "terms": list(terms),
        "mu": MU,
        "by_length": by_length,
        "by_terms": by_terms,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=MEASURED / "estimators.json")
    options = parser.parse_args(arguments)
    made = of_script("scripts.study.estimators", arguments)
    torch.set_num_threads(1)
    facts = measure(LENGTHS, TERMS)
    facts["provenance"] = made
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(facts, indent=1) + "\n")
    print(options.out)


if __name__ == "__main__":
    main()
