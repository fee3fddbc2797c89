"""The table of the later methods, from records made by hand: ranks, spreads, and one choice of a
rate for all tasks."""

import statistics
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import ttest_rel

from experiments.sweeps.grid import Grid, Point, parse
from experiments.sweeps.matching import parsed
from experiments.sweeps.selection import Shelf, missing_runs
from experiments.tables.equal_passes import (
    Row,
    accuracy_section,
    label,
    ranks,
    rates_section,
    rows_of,
    spread,
)
from tests.tables.conftest import Make

SWEEP = {
    "name": "toy",
    "title": "A toy",
    "axes": {
        "settings": ["model=small precision=fp32"],
        "tasks": ["task=sst2", "task=trec"],
        "methods": ["optimizer=mezo", "optimizer=bszo", "optimizer=mezo optimizer.estimator=p4"],
        "seeds": ["seed=0", "seed=1"],
    },
    "select": "seed=0 task=trec",
    "profiles": {"mini": {"fixed": "data=mini protocol=quick fidelity=corrected"}},
}
TASKS = ["sst2", "trec"]
# label -> task -> test accuracy of seeds 0 and 1
SCORES = {
    "MeZO": {"sst2": (0.80, 0.84), "trec": (0.50, 0.54)},
    "BSZO": {"sst2": (0.90, 0.92), "trec": (0.40, 0.60)},
}


@pytest.fixture
def toy(conf: Path) -> Grid:
    return parse(SWEEP, "mini", conf)


def answer(make: Make, point: Point, rate: float, **more: Any) -> dict[str, Any]:
    record = make(point, rate, **more)
    for key, value in point.items():
        if key.startswith("optimizer.") and key != "optimizer.lr":
            record["config"]["optimizer"][key.partition(".")[2]] = parsed(value)
    record["signature"] = f"{label(point)} {point['task']} {point['seed']} {rate}"
    return record


@pytest.fixture
def rows(toy: Grid, make: Make) -> dict[str, Row]:
    """MeZO and BSZO whole, at the better rate of TREC; MeZO's P4 still chooses its own."""
    records = []
    for point in toy.points:
        if label(point) not in SCORES:
            continue
        for place, run in enumerate(toy.candidates(point)):
            rate = float(run["optimizer.lr"])
            if place == 1 and (point["task"], point["seed"]) != ("trec", "0"):
                continue
            score = SCORES[label(point)][point["task"]][int(point["seed"])]
            validation = 0.7 - place / 10
            records.append(answer(make, point, rate, test=score, validation=validation))
    shelf = Shelf(records, toy.conf)
    choosing, then = missing_runs(toy, shelf)
    assert [run["optimizer.estimator"] for run in choosing] == ["p4"] * 2 and not then
    assert {(run["task"], run["seed"]) for run in choosing} == {("trec", "0")}
    return {row.name: row for row in rows_of(toy, shelf, toy.settings[0])}


def test_one_rate_serves_all_tasks(rows: dict[str, Row]) -> None:
    assert list(rows) == ["MeZO", "BSZO", "MeZO, P4"]
    assert rows["MeZO"].chosen == "0.001" and rows["MeZO, P4"].chosen is None
    lines = {line[0]: line[1:] for line in rates_section("rates", list(rows.values())).rows}
    assert lines["MeZO"] == ("0.0001: 60.0, [0.001: 70.0]", "-")
    assert lines["MeZO, P4"] == ("-", "2")


def test_accuracies_ranks_and_costs(rows: dict[str, Row]) -> None:
    section = accuracy_section("t", list(rows.values()), TASKS)
    lines = {line[0]: dict(zip(section.columns, line, strict=True)) for line in section.rows}
    mezo, bszo = lines["MeZO"], lines["BSZO"]
    assert mezo["SST-2"] == "82.00 (2.83; 2)" and mezo["AVG"] == "67.00"
    assert bszo["TREC"] == "50.00 (14.14; 2)" and bszo["AVG"] == "70.50"
    # means over the tasks by seed: 65, 69 and 65, 76
    assert mezo["spread"] == f"{statistics.stdev([65, 69]):.2f}"
    assert bszo["spread"] == f"{statistics.stdev([65, 76]):.2f}"
    assert (mezo["mean rank"], mezo["rank"]) == ("1.50", "2")
    assert (bszo["mean rank"], bszo["rank"]) == ("1.50", "1")
    p = ttest_rel([90, 92, 40, 60], [80, 84, 50, 54]).pvalue
    assert bszo["minus MeZO"] == f"+3.50 (p = {p:.2g}; 4)" and mezo["minus MeZO"] == "-"
    assert mezo["forward passes"] == "20" and mezo["seconds"] == "2.0"
    assert lines["before training"]["AVG"] == "50.00"
    waiting = lines["MeZO, P4"]
    assert {waiting[column] for column in section.columns[1:]} == {"-"}
    assert [section.rows[i][0] for i, _ in section.bold] == ["BSZO"]


def test_a_failure_is_named_and_has_no_rank(rows: dict[str, Row], toy: Grid) -> None:
    rows["BSZO"].records["trec", "1"]["status"] = "diverged"  # type: ignore[index]
    section = accuracy_section("t", list(rows.values()), TASKS)
    line = dict(zip(section.columns, section.rows[2], strict=True))
    assert line["TREC"] == "diverged (1 of 2)"
    assert line["AVG"] == line["rank"] == line["mean rank"] == "-"
    assert spread(rows["BSZO"], TASKS) is None  # one whole seed is left


def test_means_of_the_same_accuracies_share_a_rank() -> None:
    """1.516 / 3 of two methods on one task, whose accuracies were added in another order."""
    one, other = 50.53333333333333, 50.53333333333334
    assert one != other and ranks({"a": one, "b": other}) == {"a": 1, "b": 1}


def test_equal_numbers_share_a_rank() -> None:
    assert ranks({"a": 3.0, "b": 4.0, "c": 3.0, "d": None, "e": 1.0}) == {
        "a": 2,
        "b": 1,
        "c": 2,
        "e": 4,
    }
