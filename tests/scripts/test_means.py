"""scripts/study/means.py and its section: the mean of several runs' weights, and its scores."""

import json
from pathlib import Path

import pytest
import torch

from bszo.cli.main import main
from bszo.errors import TrajectoryError
from bszo.models import load_model
from experiments.tables.real.means import means_section
from experiments.tables.sources import MeasurementError
from scripts.study.means import groups, put, started


def test_the_mean_of_several_ends():
    model = load_model("asset:tiny-opt", dtype="float32")
    ends = [[torch.full_like(p, value) for p in model.module.parameters()] for value in (1, 2, 6)]
    for chosen, expected in (([0], 1.0), ([0, 1], 1.5), ([0, 1, 2], 3.0)):
        put(model, [ends[i] for i in chosen])
        assert {float(p.min()) for p in model.module.parameters()} == {expected}
        assert {float(p.max()) for p in model.module.parameters()} == {expected}


def test_a_round_starts_from_the_mean_of_the_one_before(tmp_path: Path):
    base, rows = "asset:tiny-opt", tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"x": f"row {i}", "label": i % 2}) + "\n" for i in range(6)))
    shared = ["--prompt", "{x}", "--options", "a", "b", "--batch-size", "2", "--held-out", "2"]

    def trained(base: str, seed: int) -> Path:
        out = tmp_path / str(seed)
        more = ["--steps", "2", "--seed", str(seed), "--lr", "1e-3", "--out", str(out)]
        assert main(["tune", base, str(rows), *shared, *more]) == 0
        return out

    def check(found: str, runs: list[Path]) -> None:
        models = [load_model(str(folder), dtype="float32") for folder in (*runs, found)]
        for *ends, mean in zip(*(m.module.parameters() for m in models), strict=True):
            assert torch.equal(mean, torch.stack(ends).sum(0) / len(ends))

    first = [trained(base, seed) for seed in (1, 2)]
    rounds = [[run / "trajectory.bszo" for run in first]]
    with started([], base) as start:
        assert start == base
    with started(rounds, base) as start:
        check(start, first)
        second = [trained(start, seed) for seed in (3, 4)]
    assert not Path(start).exists()
    rounds.append([run / "trajectory.bszo" for run in second])
    with started(rounds, base) as start:
        check(start, second)
    with pytest.raises(TrajectoryError, match="base"), started(rounds[::-1], base):
        pass


def test_no_run_is_in_two_groups_of_a_size():
    eight = [list(group) for group in groups(8)]
    assert [len(group) for group in eight] == [1] * 8 + [2] * 4 + [4] * 2 + [8]
    for size in (1, 2, 4, 8):
        assert [i for group in eight if len(group) == size for i in group] == list(range(8))
    assert [list(group) for group in groups(3)] == [[0], [1], [2], [0, 1]]
    assert list(groups(1)) == [range(1)]


def test_a_line_for_every_number_of_runs(tmp_path: Path):
    assert means_section(tmp_path) is None
    runs = [{"lr": 3e-5, "num_forwards": 1000, "seed": seed} for seed in (0, 1)]

    def scores(seeds: list[int], loss: float, accuracy: float) -> dict[str, object]:
        split = {"validation_loss": loss, "validation_accuracy": accuracy}
        return {"seeds": seeds, **split, "test_loss": loss / 2, "test_accuracy": accuracy + 0.01}

    means = [scores([0], 0.6, 0.7), scores([1], 0.5, 0.74), scores([0, 1], 0.4, 0.8)]
    file = tmp_path / "mezo.json"
    file.write_text(json.dumps({"method": "MeZO", "runs": runs, "means": means}))
    section = means_section(tmp_path)
    assert section is not None and section.rows == (
        (
            *("MeZO", "3e-05", "1,000", "1", "0.550 (0.071; 2)", "0.275 (0.035; 2)"),
            *("72.0 (2.8; 2)", "73.0 (2.8; 2)"),
        ),
        (*("MeZO", "3e-05", "1,000", "2", "0.400 (1)", "0.200 (1)"), "80.0 (1)", "81.0 (1)"),
    )
    second = {"method": "MeZO", "start": [["a", "b"]], "runs": runs, "means": means[:1]}
    (tmp_path / "mezo-2.json").write_text(json.dumps(second))
    section = means_section(tmp_path)
    assert section is not None and len(section.rows) == 3
    assert section.rows[2][:4] == ("MeZO, round 2, after 2 runs", "3e-05", "1,000", "1")
    third = {**second, "start": [["a", "b"], ["c"]]}
    (tmp_path / "mezo-2.json").write_text(json.dumps(third))
    section = means_section(tmp_path)
    assert section is not None and section.rows[2][0] == "MeZO, round 3, after 2 and 1 runs"
    (tmp_path / "mezo-2.json").unlink()
    mixed = [runs[0], {**runs[1], "lr": 1e-5}]  # no mean of two rates is one row
    for damaged in ("{", "[]", json.dumps({"method": "MeZO", "runs": mixed, "means": means})):
        file.write_text(damaged)
        with pytest.raises(MeasurementError, match=r"^mezo.json: not a report of scripts.study"):
            means_section(tmp_path)
