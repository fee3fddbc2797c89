"""The study of the estimators: errors that are known in closed form, and what its file says."""

import json
import math

import pytest
import torch
from torch import Tensor

from bszo.core import geometric
from experiments.tables.sources import MEASURED
from scripts.figures.figure_estimators import verdicts
from scripts.study.estimators import central, error, forward, measure, of_law, passes, richardson

SLOPE = torch.tensor([2.0, -3.0], dtype=torch.float64)


def cubic(a: float) -> Tensor:
    """Along two directions, with the same curvature and third derivative."""
    return 1.0 + SLOPE * a + 5.0 * a**2 + 7.0 * a**3


def relative(value: float) -> float:
    return value / math.sqrt(float(SLOPE.square().mean()))


def test_errors_on_a_cubic_are_the_taylor_terms() -> None:
    mu = 0.1
    assert error(central(mu), cubic, SLOPE) == pytest.approx(relative(7 * mu**2))
    assert error(forward(mu), cubic, SLOPE) == pytest.approx(relative(5 * mu + 7 * mu**2))
    assert error(richardson(mu), cubic, SLOPE) < 1e-12


def test_a_long_p4_has_the_root_of_2_in_7_of_the_central_error() -> None:
    """Term n is off by 7 mu^2 (1 - 1.5 c^(n-1)), c = 1/2, with probability c^n."""
    mu = 0.1
    long = of_law("p4", geometric(mu, 0.5, 20))
    wanted = math.sqrt(2 / 7) * error(central(mu), cubic, SLOPE)
    assert error(long, cubic, SLOPE) == pytest.approx(wanted, rel=1e-4)
    assert passes(long) == pytest.approx(3.5, rel=1e-5)


def test_noise_adds_what_the_weights_make_of_it() -> None:
    """A draw of many errors of the losses against delta^2 sum w^2."""
    mu, noise = 0.1, 0.02
    found = of_law("p4", geometric(mu, 0.5, 3))
    generator = torch.Generator().manual_seed(0)
    count, square = 20000, 0.0
    for p, weights in found:
        errors = noise * torch.randn(count, len(weights), dtype=torch.float64, generator=generator)
        w = torch.tensor(list(weights.values()), dtype=torch.float64)
        exact = sum(w * cubic(a) for a, w in weights.items()) - SLOPE
        square += p * float((exact + (errors @ w)[:, None]).square().mean())
    wanted = math.sqrt(square / float(SLOPE.square().mean()))
    assert error(found, cubic, SLOPE, noise) == pytest.approx(wanted, rel=0.02)


def test_the_file_is_what_the_study_measures() -> None:
    facts = json.loads((MEASURED / "estimators.json").read_text())
    again = measure(facts["lengths"][:3], facts["terms"][:3])
    for was, now in zip(facts["by_length"], again["by_length"], strict=True):
        assert now["estimator"] == was["estimator"]
        assert now["float64"] == pytest.approx(was["float64"][:3], rel=1e-4, abs=1e-12)
    for was, now in zip(facts["by_terms"], again["by_terms"], strict=True):
        assert now["p4"] == pytest.approx(was["p4"][:3], rel=1e-4)
    assert verdicts(facts)[0].startswith("Without noise a long P4 has 0.54 of the central")
