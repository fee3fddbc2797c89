"""The closed forms of scripts/study/theory.py and descent.py against dense Monte Carlo on
small cases."""

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.render import main
from experiments.tables.artefacts import ARTEFACTS
from experiments.tables.inputs import Inputs
from scripts.figures import figure_theory
from tests.squares import square


@pytest.fixture
def theory() -> Any:
    return importlib.import_module("scripts.study.theory")


@pytest.fixture
def descent() -> Any:
    return importlib.import_module("scripts.study.descent")


def close(samples: np.ndarray, expected: float) -> bool:
    """Within four standard errors."""
    return abs(samples.mean() - expected) < 4 * samples.std(ddof=1) / len(samples) ** 0.5


def dense_steps(g: np.ndarray, k: int, rate: float, noise_var: float, draws: int) -> np.ndarray:
    """(draws, n): -rate B (B^T g + nu), with B written out."""
    generator = np.random.default_rng(0)
    b = generator.standard_normal((draws, len(g), k))
    y = np.einsum("dnk,n->dk", b, g) + noise_var**0.5 * generator.standard_normal((draws, k))
    return -rate * np.einsum("dnk,dk->dn", b, y)


@pytest.mark.parametrize(("k", "noise_std"), square([1, 3], [0.0, 1e-6]))
def test_moments(theory: Any, k: int, noise_std: float):
    problem = theory.quadratic(6, size=2.0, noise_std=noise_std)
    row = theory.moments(problem, k, 0.5, 500)
    for name in ("first", "second"):
        assert abs(row[name]["mean"] - 1) < 4 * row[name]["error"]
    assert row["across"] < 1 + 5 * row["across_error"]
    steps = dense_steps(
        problem.gradient.numpy(), k, theory.LR * row["gamma"], row["observed_var"], 40_000
    )
    assert close((steps**2).sum(axis=1), row["second"]["formula"])
    assert row["observed_var"] == pytest.approx(2 * (noise_std / theory.EPS) ** 2)


def test_a_wrong_theorem_would_be_seen(theory: Any):
    row = theory.moments(theory.quadratic(6), 4, 1.0, 400)
    printed = row["first"]["mean"] * 4  # as if E[delta] were -lr gamma grad L, without the k
    assert abs(printed - 1) > 4 * row["first"]["error"] * 4


@pytest.mark.parametrize("ratio", [0.01, 1.0, 30.0])
def test_shrinkage_is_the_batch_posterior(theory: Any, ratio: float):
    row = theory.shrinkage(ratio)
    cov = np.linalg.inv(np.eye(4) + np.eye(4) / ratio)  # Eq. 9 with D = I, prior variance 1
    assert row["cov"] == pytest.approx(cov[0, 0]) and row["cov_off_diagonal"] == 0
    assert row["gain"] == pytest.approx(cov[0, 0] / ratio) == pytest.approx(row["gamma"])


@pytest.mark.parametrize("k", [1, 4])
def test_the_expected_loss_is_exact(descent: Any, k: int):
    n, lr, draws = 5, 0.2, 40_000
    a, theta = descent.spectrum(n).numpy(), np.ones((draws, n))
    generator = np.random.default_rng(1)
    promised = descent.expected(n, k, lr, 3)
    for t in range(4):
        assert t == 0 or close(theta**2 @ a / 2, promised[t])
        b = generator.standard_normal((draws, n, k))
        y = np.einsum("dnk,dn->dk", b, theta * a)
        theta = theta - lr * descent.GAMMA * np.einsum("dnk,dk->dn", b, y)
    assert promised[0] == pytest.approx(a.sum() / 2)


def test_the_optimizer_follows_the_expectation(descent: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(descent, "MOST_STEPS", 2)
    losses = np.array([descent.descend(6, 3, 0.1, seed)[2] for seed in range(250)])
    assert close(losses, descent.expected(6, 3, 0.1, 2)[2])


@pytest.mark.parametrize(("n", "k"), [(5, 1), (5, 9), (50, 4), (200, 16)])
def test_the_bound_bounds_and_is_best_at_its_rate(descent: Any, n: int, k: int):
    best = 1 / (descent.GAMMA * descent.EIGENVALUES[1] * (n + k + 1))
    for lr in (best / 3, best, 1.9 * best):
        bound, expected = descent.bound(n, k, lr, 30), descent.expected(n, k, lr, 30)
        assert all(e <= b * (1 + 1e-12) for e, b in zip(expected, bound, strict=True))
        assert bound[-1] >= descent.bound(n, k, best, 30)[-1]
    # promises nothing
    assert descent.bound(n, k, 2 * best, 1)[1] == pytest.approx(descent.bound(n, k, 2 * best, 1)[0])
    decrease = [
        1
        - descent.bound(n, j, 1 / (descent.GAMMA * (n + j + 1)), 1)[1]
        / (descent.spectrum(n).sum() / 2)
        for j in (1, k)
    ]
    assert float(decrease[1] / decrease[0]) == pytest.approx(descent.promised_speedup(n, k))


def test_the_figure_needs_only_the_numbers(
    theory: Any, descent: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for module, name, value in (
        (descent, "RATES", (0.1, 0.2)),
        (descent, "MOST_STEPS", 30),
        (descent, "SEEDS", 2),
        (theory, "SLOPES", (0.1,)),
        (theory, "RATIOS", (0.1, 1.0)),
    ):
        monkeypatch.setattr(module, name, value)
    facts = theory.measure((1, 2), (4, 6), 60) | {"descent": descent.descent(5, (1, 2))}
    (tmp_path / "theory.json").write_text(json.dumps(facts))
    monkeypatch.setattr(figure_theory, "THEORY", tmp_path / "theory.json")
    drawn = figure_theory.draw(ARTEFACTS["figure_theory"], Inputs(tmp_path))
    assert [len(figure.axes) for figure in drawn.values()] == [8]


@pytest.mark.parametrize(("text", "said"), [("{", "not whole JSON"), (None, "not there")])
def test_a_bad_measurement_is_one_line(
    text: str | None,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setattr(figure_theory, "THEORY", tmp_path / "theory.json")
    if text:
        (tmp_path / "theory.json").write_text(text)
    assert main(["figure_theory", "--out", str(tmp_path / "out")]) == 1
    assert f"theory.json: {said}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
