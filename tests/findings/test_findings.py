"""results/findings.md: its numbers are made from records, by hand here."""

import re
from pathlib import Path
from typing import Any

import pytest

from experiments.records import store
from experiments.sweeps.grid import Point, load
from experiments.tables.findings import studies
from experiments.tables.findings.evidence import Evidence, sides
from experiments.tables.findings.text import FINDINGS, UnknownFinding, written
from experiments.tables.inputs import Inputs
from tests.tables.test_sweeper import written as made

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = (ROOT / "results" / "findings.md").read_text()
TEST = {"mezo": 0.7, "bszo": 0.8, "bszo-b": 0.8}


def put(folder: Path, point: Point, *, loss: float = 0.5, **changes: Any) -> None:
    """A run's record for a cell: BSZO 80 % at its end and 60 % half-way, MeZO 70 %, two passes a
    step and three."""
    record = made(point, folder, 0.9)["return_value"]
    a_step = 2 if point["optimizer"] == "mezo" else 3
    end = TEST.get(point["optimizer"], 0.7)
    curve = [
        {
            "step": step,
            "num_forwards": step * a_step,
            "train_loss": loss,
            "validation_accuracy": score,
            "train_seconds": 0.1 * step,
            "gain": 0.25,
            "noise_var": 1.0,
        }
        for step, score in ((0, 0.5), (100, 0.6), (200, end))
    ]
    record |= {
        "num_steps": 200,
        "best_step": 200,
        "num_forwards": 200 * a_step,
        "curve": curve,
        "test_accuracy": end,
        "validation_accuracy": end,
        "model": {"num_parameters": 250_000},
        **changes,
    }
    store.write(record, folder)


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """Table 1's SST-2 of three methods, every rate, seed 0, corrected."""
    tmp_path = tmp_path_factory.mktemp("runs")
    grid = load("table1", "mini")
    for point in grid.points:
        if point["optimizer"] in TEST and point["seed"] == "0" and point["fidelity"] == "corrected":
            for candidate in grid.candidates(point):
                put(tmp_path / "mini", candidate)
    return Evidence(Inputs(tmp_path))


def test_every_number_that_the_text_names_is_made_and_none_is_idle():
    assert set(re.findall(r"\{(\w+)\}", TEMPLATE)) == set(FINDINGS)


def test_the_page_of_results_is_that_of_the_records_in_git():
    """Every quote is of one cell, and nobody has packed records without writing the page anew."""
    page = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    assert written(TEMPLATE, Inputs(store.PACKED)).rstrip() in page


def test_without_records_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("experiments.tables.walk.table.points", lambda: ([], []))
    text = written(TEMPLATE, Inputs(tmp_path))
    assert text.count("(not run)") >= len(FINDINGS) - 3 and "{" not in text


@pytest.mark.parametrize(
    ("text", "message"), [("{nothing}", "{nothing} names no finding"), ("{", "Single '{'")]
)
def test_a_name_that_nothing_makes_is_an_error(tmp_path: Path, text: str, message: str):
    with pytest.raises(UnknownFinding, match=message):
        written(text, Inputs(tmp_path))


def test_tables_by_hand(evidence: Evidence):
    names = ("averages", "passes", "equal_forwards", "equal_steps", "bszo_b", "size", "gains")
    text = {name: FINDINGS[name](evidence) for name in names}
    # at MeZO's 400 passes BSZO is a third of the way from step 100 to 200: 66.7 against 70 %
    row = (
        "| Table 1, tiny-roberta, fp32, corrected | 70.0 | - | - | - | 80.0 | 80.0 | BSZO 5, BSZO-B"
        " 5 | -3.3 |"
    )
    assert text["averages"].splitlines()[2:] == [row]
    assert text["passes"] == "MeZO 2, BSZO 3, BSZO-B 3"
    assert text["equal_forwards"] == "MeZO is ahead in 1 of 1 averages, by 3.3 points"
    assert text["equal_steps"] == "1 of 1 averages in fp32"
    assert text["bszo_b"] == "the same test accuracy in 5 of 5 pairs of runs"
    assert (
        text["size"] == "0.25 to 0.25"
        and text["gains"] == "tiny-roberta fp32 eps 0.0001 0.25 (5 runs)"
    )


def test_pairs_differ_in_one_thing_alone(evidence: Evidence):
    pairs = evidence.paired("optimizer", "bszo", "mezo", "table1")
    assert [gap for _, gap in pairs] == pytest.approx([10.0] * 5)
    assert {point["task"] for point, _ in pairs} == {"sst2", "rte", "cb", "wic", "trec"}
    assert sides([1.0, 0.0, -2.0, 3.0]) == "2 better, 1 worse"


def test_the_walk_is_compared_seed_by_seed(tmp_path: Path):
    """MeZO at one eps, two seeds: fp32 70 and 80 % either way; bf16 60 and 66 % as published, 61
    and 71 % exact."""
    scores = {
        ("fp32", "as-published"): (0.7, 0.8),
        ("fp32", "exact"): (0.7, 0.8),
        ("bf16", "as-published"): (0.6, 0.66),
        ("bf16", "exact"): (0.61, 0.71),
    }
    for point in load("walk", "mini").points:
        accuracies = scores.get((point["precision"], point["optimizer.perturbation"]))
        if (
            accuracies
            and point["optimizer"] == "mezo"
            and point["seed"] in "01"
            and point["optimizer.eps"] == "1e-3"
        ):
            score = accuracies[int(point["seed"])]
            rough = (
                point["precision"] == "bf16" and point["optimizer.perturbation"] == "as-published"
            )
            put(tmp_path / "mini", point, test_accuracy=score, loss=0.75 if rough else 0.5)
    evidence = Evidence(Inputs(tmp_path))
    assert FINDINGS["walk_study"](evidence).splitlines()[2:] == [
        "| bf16 | 1e-3 | -12.0 ± 2.0 (2) | -9.0 ± 0.0 (2) | +3.0 ± 2.0 (2), 2 better, 0 worse |"
    ]
    assert FINDINGS["walk_losses"](evidence).splitlines()[2:] == ["| bf16 | 1e-3 | +0.25 / +0 |"]


def test_losses_on_real_rows_are_told_with_their_range(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(studies, "SMALL", "local")
    losses = {("fp32", "mezo"): 0.5, ("fp32", "lozo"): 0.7, ("fp32", "bszo"): 0.6}
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    losses |= {("bf16", "mezo"): 2.0, ("bf16", "bszo"): 0.8, ("fp16", "mezo"): 9.0}
    for point in load("walk", "local").points:
        loss = losses.get((point["precision"], point["optimizer"]))
        if loss and point["optimizer.eps"] == "1e-4":
            more = 0.01 * (point["optimizer.perturbation"] == "exact")
            placed = {**point, "model.path": str(model)}
            put(tmp_path / "local", placed, loss=loss + more)
    text = FINDINGS["local_losses"](Evidence(Inputs(tmp_path)))
    assert text == (
        "in fp32 0.500 to 0.710 and BSZO's 0.600 to 0.610;"
        " in bf16 at 1e-4 2.000 to 2.010 and BSZO's 0.800 to 0.810"
    )
