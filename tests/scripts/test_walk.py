"""The walk's measurement and its table: points against a walk by hand, cells against the numbers
they come from."""

import json
from pathlib import Path
from typing import Any

import pytest

from experiments.records import store
from experiments.records.signing import signature
from experiments.sweeps.grid import Point, load
from experiments.tables.artefacts import ARTEFACTS
from experiments.tables.inputs import Inputs
from experiments.tables.walk import table as walks
from scripts.figures import figure_drift
from scripts.study import drift
from tests.experiments.conftest import some_record  # noqa: F401 - a fixture
from tests.forked import run_module

REFERENCE = """\
model,dtype,eps,walk,steps,drift_percent,perplexity_at_start,perplexity
m,float16,,three-leg,5,11-13,1.5,3
m,float16,0.1,three-leg,10,9,,
"""
ROOT = Path(__file__).resolve().parents[2]


def test_steps_are_log_spaced_and_end_at_the_last() -> None:
    assert drift.log_spaced(1) == [0, 1]
    assert drift.log_spaced(20) == [0, 1, 2, 5, 10, 20]
    assert drift.log_spaced(20_000)[-4:] == [2000, 5000, 10_000, 20_000]
    assert drift.log_spaced(700) == [0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 700]


def test_a_walk_drifts_in_sixteen_bits_and_an_exact_step_does_not(tmp_path: Path) -> None:
    command = [
        "scripts.study.drift",
        "--steps",
        "5",
        "--dtypes",
        "bfloat16",
        "--eps",
        "1e-3",
        "--tokens",
        "24",
        "--out",
        str(tmp_path),
    ]
    first, again = (run_module(*command, folder=tmp_path).stdout for _ in range(2))
    assert first.count("\n") == 3 and again == ""  # complete curves are not walked again
    curves = {
        c["walk"]: c
        for c in json.loads((tmp_path / "tiny-mistral.json").read_text())["curves"].values()
    }
    assert all(curve["complete"] and len(curve["points"]) == 4 for curve in curves.values())
    last = {walk: curve["points"][-1] for walk, curve in curves.items()}
    assert (
        last["exact"]["drift"] == 0
        and last["exact"]["perplexity"] == curves["exact"]["points"][0]["perplexity"]
    )
    assert last["three-leg"]["drift"] > 3 * last["two-leg"]["drift"] > 0


def test_the_table_takes_the_last_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        {"step": 0, "drift": 0.0, "perplexity": 2.0},
        {"step": 5, "drift": 0.1, "perplexity": 3.0},
        {"step": 10, "drift": 0.25, "perplexity": None},
    ]
    curve = {
        "dtype": "float16",
        "eps": 1e-3,
        "walk": "three-leg",
        "points": points,
        "complete": True,
    }
    (tmp_path / "m.json").write_text(
        json.dumps({"setting": {"model": "m"}, "curves": {"c": curve}})
    )
    shorter = {**curve, "points": points[:2], "complete": False}
    (tmp_path / "n.json").write_text(
        json.dumps({"setting": {"model": "m"}, "curves": {"c": shorter}})
    )
    (tmp_path / "o.json").write_text('{"curves": {}}')
    (tmp_path / "drift.csv").write_text(REFERENCE)
    monkeypatch.setattr(walks, "REFERENCE", tmp_path)
    data, problems = walks.points(tmp_path)
    assert len(data) == 3 and problems == [
        "o.json: not a report of scripts.study.drift (KeyError: 'setting')"
    ]
    section = walks.drift_section(data, "m")
    assert section.rows == (
        ("float16", "0.001", "three-leg", "5", "10 %", "11-13 %", "2", "3", "1.5", "2"),
        ("float16", "0.001", "three-leg", "10", "25 %", "-", "2", "inf", "inf", "-"),
    )
    monkeypatch.setattr(figure_drift, "points", lambda: (data, problems))
    drawn = figure_drift.draw(ARTEFACTS["figure_drift"], Inputs(tmp_path))
    assert list(drawn) == ["figure_drift"]


def test_a_model_without_text_has_no_perplexity() -> None:
    row = {
        "model": "m",
        "text": "none",
        "dtype": "float32",
        "eps": 1e-3,
        "walk": "exact",
        "perplexity": None,
    }
    section = walks.drift_section([{**row, "step": step, "drift": 0.0} for step in (0, 5)], "m")
    assert section.rows == (("float32", "0.001", "exact", "5", "0 %", "-"),)


def written(folder: Path, point: Point, blank: dict[str, Any], number: int, **changed: Any) -> None:
    """A record of the walk's grid."""
    groups = {
        key: point[key]
        for key in ("model", "precision", "task", "optimizer", "fidelity", "data", "protocol")
    }
    config = {
        "number": number,
        "seed": int(point["seed"]),
        "model": {"name": "tiny-roberta"},
        "fidelity": {},
        "protocol": {"num_steps": 1000, "eval_every": 100},
        "optimizer": {"lr": 1e-2, "eps": 1e-4, "perturbation": point["optimizer.perturbation"]},
    }
    store.write(
        {
            **blank,
            "choices": groups,
            "config": config,
            "signature": signature(config),
            "status": "ok",
            "reason": "nan" if changed.get("status") == "diverged" else None,
            "provenance": {"started": "2026-01-01"},
            **changed,
        },
        folder / "mini",
    )


def test_runs_stand_by_walk(tmp_path: Path, some_record: dict[str, Any]) -> None:  # noqa: F811
    """One method and precision a row: the walk as published left, exact right, what exactness adds
    by seed."""
    mine = [
        point
        for point in load("walk", "mini").points
        if point["optimizer"] == "bszo"
        and point["precision"] in ("bf16", "fp16")
        and point["optimizer.eps"] == "1e-4"
    ]
    curve = some_record["curve"]
    for number, point in enumerate(mine):
        seed = int(point["seed"])
        exact = point["optimizer.perturbation"] == "exact"
        bf16 = point["precision"] == "bf16"
        accuracy = 0.5 + (0.01 + 0.02 * seed) * exact + 0.1 * seed
        last = {**curve[-1], "train_loss": 0.5 + seed**2, "validation_loss": None if exact else 1.0}
        written(
            tmp_path,
            point,
            some_record,
            number,
            test_accuracy=accuracy,
            curve=[*curve[:-1], last],
            status="diverged" if bf16 and exact and seed == 1 else "ok",
        )
    inputs = Inputs(tmp_path)
    (section,) = walks.run_sections(inputs)
    rows = {row[:3]: row[3:] for row in section.rows}
    published = ("60.00 (10.00; 3)", "1.5000", "1.0000")
    # seed by seed 1, 3 and 5 points; of bf16 the middle one failed
    assert rows["BSZO", "fp16", "1e-4"] == (
        *published,
        "63.00 (12.00; 3)",
        "1.5000",
        "-",
        "3.00 (2.00; 3)",
    )
    assert rows["BSZO", "bf16", "1e-4"] == (
        *published,
        "diverged (1 of 3)",
        "-",
        "-",
        "3.00 (2.83; 2 of 3)",
    )
    assert rows["BSZO", "bf16", "1e-3"] == rows["MeZO", "bf16", "1e-4"] == ("-",) * 7
    assert len(inputs.used) == 12
    assert "over 3 seeds" in section.notes[0]
