"""scripts/study/muon.py against numpy, and the committed table against what the formulas say."""

import json

import numpy as np
import pytest
import torch

from experiments.tables.sources import MEASURED
from scripts.study import muon


def test_a_row_is_what_numpy_says() -> None:
    row = muon.measure(4, 30, 2, draws=3)
    generator = torch.Generator().manual_seed(4 * 30 * 2)
    exact, rounds, lengths = [], [], []
    for _ in range(3):
        s = np.linalg.svd(muon.estimate(4, 30, 2, generator).double().numpy(), compute_uv=False)
        x = s / (np.linalg.norm(s) + 1e-7)
        for _ in range(5):
            x = 3.4445 * x - 4.7750 * x**3 + 2.0315 * x**5
        exact.append(s.sum() / np.linalg.norm(s) / 2)
        rounds.append(s @ x / np.linalg.norm(s) / np.linalg.norm(x))
        lengths.append(np.linalg.norm(x) / 2)
    assert row["cosine_exact"] == pytest.approx(np.mean(exact), abs=1e-5)
    assert row["cosine_newton_schulz"] == pytest.approx(np.mean(rounds), abs=1e-4)
    assert row["length_newton_schulz"] == pytest.approx(np.mean(lengths), abs=1e-4)


def test_the_committed_table_has_the_singular_values_of_gaussians() -> None:
    """Spread over 1 +- sqrt(r / n): 1 - cosine is about (r + 1) / (8 n)."""
    rows = json.loads((MEASURED / "muon.json").read_text())["rows"]
    assert len(rows) == len(muon.RANKS) * len(muon.WIDTHS) * len(muon.PROBES)
    for row in rows:
        wanted = (row["rank"] + 1) / row["width"] / 8
        assert 1 - row["cosine_exact"] == pytest.approx(wanted, rel=0.15), row
