"""scripts/study/means.py and its section: the mean of several runs' weights, and its scores."""

import json
from pathlib import Path

import pytest
import torch

from bszo.models import load_model
from experiments.tables.means import means_section
from experiments.tables.sources import MeasurementError
from scripts.study.means import put


def test_the_mean_of_several_ends():
    model = load_model("asset:tiny-opt", dtype="float32")
    ends = [[torch.full_like(p, value) for p in model.module.parameters()] for value in (1, 2, 6)]
    for chosen, expected in (([0], 1.0), ([0, 1], 1.5), ([0, 1, 2], 3.0)):
        put(model, [ends[i] for i in chosen])
        assert {float(p.min()) for p in model.module.parameters()} == {expected}
        assert {float(p.max()) for p in model.module.parameters()} == {expected}


def test_a_line_for_every_number_of_runs(tmp_path: Path):
    assert means_section(tmp_path) is None
    runs = [{"lr": 3e-5, "num_forwards": 1000, "seed": seed} for seed in (0, 1)]

    def scores(seeds: list[int], loss: float, accuracy: float) -> dict[str, object]:
        split = {"validation_loss": loss, "validation_accuracy": accuracy}
        return {"seeds": seeds, **split, "test_loss": loss / 2, "test_accuracy": accuracy + 0.01}

    subsets = [scores([0], 0.6, 0.7), scores([1], 0.5, 0.74), scores([0, 1], 0.4, 0.8)]
    file = tmp_path / "mezo.json"
    file.write_text(json.dumps({"method": "MeZO", "runs": runs, "subsets": subsets}))
    section = means_section(tmp_path)
    assert section is not None and section.rows == (
        ("MeZO", "3e-05", "1,000", "1 (2)", "0.550", "0.275", "72.0", "73.0", "71.0, 75.0"),
        ("MeZO", "3e-05", "1,000", "2 (1)", "0.400", "0.200", "80.0", "81.0", "81.0, 81.0"),
    )
    mixed = [runs[0], {**runs[1], "lr": 1e-5}]  # no mean of two rates is one row
    for damaged in ("{", "[]", json.dumps({"method": "MeZO", "runs": mixed, "subsets": subsets})):
        file.write_text(damaged)
        with pytest.raises(MeasurementError, match=r"^mezo.json: not a report of scripts.study"):
            means_section(tmp_path)
