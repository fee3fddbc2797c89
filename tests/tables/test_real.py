"""The table of the study on a real model, from records made by hand to answer its points."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiments.records.passes import weight
from experiments.sweeps.grid import Grid, Point, rate_key
from experiments.sweeps.matching import parsed
from experiments.sweeps.selection import Choice, Shelf
from experiments.tables.artefacts import ARTEFACTS
from experiments.tables.real.beside import nearest
from experiments.tables.real.courses import beside_section, course_section, tasks_section
from experiments.tables.real.study import (
    Row,
    against,
    at_budget,
    curve,
    grid_of,
    mean_last_loss,
    over_seeds,
    passes_to,
    passes_to_best,
    reached,
    rows_of,
)
from experiments.tables.real.table import (
    accuracy_section,
    gain_section,
    rates_section,
    sections,
)
from experiments.tables.real.untrained import (
    in_context_section,
    is_untrained,
    label_bias_section,
    probe_section,
)

Plain = dict[str, Any]


def answer(point: Point, scores: list[float], test: float, loss: float = 0.5) -> Plain:
    """An ok record of a point with a rate: validation scores in equal parts of its budget."""
    config: Plain = {"seed": 0, "protocol": {"max_forwards": 4000, "num_steps": 100000}}
    for key, value in point.items():
        *groups, last = key.split(".")
        node = config
        for group in groups:
            node = node.setdefault(group, {})
        if groups or key == "seed":
            node[last] = parsed(value)
    config["model"] = {"name": point["model"], "path": f"{point['model']}@1", "packed": True}
    if point["optimizer"] == "forward-grad":
        config["optimizer"]["_target_"] = "bszo.ForwardGrad"
    protocol = config["protocol"]
    total = min(protocol["max_forwards"], protocol["num_steps"])
    first_order = point["optimizer"] in ("sgd", "adamw")
    return {
        "signature": f"{sorted(point.items())} {test}",
        "status": "ok",
        "choices": {k: v for k, v in point.items() if "." not in k and k != "seed"},
        "config": config,
        "model": {"fingerprint": "of the weights"},
        "zero_shot_accuracy": 0.52,
        "validation_accuracy": max(scores),
        "test_accuracy": test,
        "num_forwards": total,
        "num_backwards": total if first_order else 0,
        "train_seconds": 1234.0,
        "data": {
            "num_examples": {"train": 1000, "validation": 256, "test": 872},
            "num_truncated": {"train": 0, "validation": 0, "test": 3},
        },
        "peak_memory_bytes": 1.5e9,
        "num_steps": total,
        "provenance": {"started": "2026-01-01T00:00:00Z", "hardware": {"cpu": "one"}},
        "curve": [
            {
                "num_forwards": total * i // (len(scores) - 1),
                "validation_accuracy": score,
                "validation_loss": loss,
            }
            for i, score in enumerate(scores)
        ],
    }


@pytest.fixture(scope="module")
def grid() -> Grid:
    return grid_of(4000)


def first(grid: Grid, **wanted: str) -> Point:
    return next(
        point
        for point in grid.points
        if all(point.get(key.replace("_", ".")) == value for key, value in wanted.items())
    )


def chosen(grid: Grid, point: Point, losses: list[float]) -> list[Plain]:
    """The records of the choosing runs; the rates in the order of conf/rates. Of a longer budget,
    those of the shorter one before them, and its own from the best rate of these down."""
    before = grid.before(point)
    if before is not None:
        best = losses.index(min(losses))
        own = [{**run, **point} for run in grid.candidates(point)]
        longer = zip(own[best:], losses[best:], strict=True)
        later = [answer(run, [0.5, 0.6], 0.0, loss) for run, loss in longer]
        return chosen(grid, before, losses) + later
    runs = grid.candidates(point)
    return [answer(run, [0.5, 0.6], 0.0, loss) for run, loss in zip(runs, losses, strict=True)]


def cells(grid: Grid, point: Point, rate: str, scores: list[float], tests: list[float]) -> Any:
    key = rate_key(point["optimizer"], grid.conf)
    return [
        answer({**point, "seed": str(seed), key: rate}, scores, test)
        for seed, test in enumerate(tests)
    ]


@pytest.fixture(scope="module")
def records(grid: Grid) -> list[Plain]:
    """MeZO with three seeds, BSZO k = 2 with two, AdamW with one; k = 8 still chooses, LOZO has
    failed."""
    mezo, bszo = first(grid, optimizer="mezo"), first(grid, optimizer="bszo", optimizer_k="2")
    wide, adamw = first(grid, optimizer="bszo", optimizer_k="8"), first(grid, optimizer="adamw")
    lozo = first(grid, optimizer="lozo")
    mid = {m["optimizer"]: grid.candidates(m)[1] for m in (mezo, bszo, adamw, lozo)}
    steady = [0.5, 0.6, 0.7, 0.75, 0.8]
    records = chosen(grid, mezo, [0.9, 0.4, 0.6]) + chosen(grid, bszo, [0.7, 0.5, 0.6])
    records += chosen(grid, adamw, [0.7, 0.5, 0.6]) + chosen(grid, lozo, [0.7, 0.5, 0.6])
    records += chosen(grid, wide, [0.2, 0.5, 0.6])  # the best is at the end
    records += cells(grid, mezo, mid["mezo"]["optimizer.lr"], steady, [0.70, 0.72, 0.74])
    better = [0.5, 0.7, 0.8, 0.85, 0.9]
    records += cells(grid, bszo, mid["bszo"]["optimizer.lr"], better, [0.72, 0.75])
    key = "optimizer.algorithm.lr"
    records += cells(grid, adamw, mid["adamw"][key], [0.5, 0.9, 0.9], [0.9])
    failed = cells(grid, lozo, mid["lozo"]["optimizer.lr"], steady, [0.5, 0.5])[1]
    return [*records, {**failed, "status": "diverged"}]


@pytest.fixture(scope="module")
def rows(grid: Grid, records: list[Plain]) -> dict[str, Row]:
    return {row.name: row for row in rows_of(grid, Shelf(records))}


def test_a_row_a_method_and_a_line_for_the_floor(rows: dict[str, Row]):
    section = accuracy_section(4000, list(rows.values()))
    assert len(section.rows) == 1 + len(rows) and {len(row) for row in section.rows} == {
        len(section.columns)
    }
    lines = {line[0]: dict(zip(section.columns, line, strict=True)) for line in section.rows}
    # sqrt(0.7 * 0.3 / 872) and sqrt(0.8 * 0.2 / 256)
    assert "1.6 points on the 872 test rows and 2.5 on the 256 of validation" in section.notes[0]
    assert lines["zero-shot (bf16-sr)"]["test %"] == "52.00"
    mezo = lines["MeZO (bf16-sr)"]
    assert mezo["lr"] == "3e-05" and mezo["test %"] == "72.00 (2.00; 3)"
    assert mezo["validation % at 1,000"] == "60.00 (0.00; 3)"
    assert mezo["validation % at 2,000"] == "70.00 (0.00; 3)"
    assert mezo["validation % at 4,000"] == "80.00 (0.00; 3)"
    assert [mezo[f"passes to {level} %"] for level in (70, 75, 80, 85)] == [
        "2,000",
        "3,000",
        "4,000",
        "-",
    ]
    assert mezo["training, s"] == "1,234" and mezo["peak GB"] == "1.50"
    bszo = lines["BSZO, k = 2 (bf16-sr)"]
    assert bszo["test %"] == "73.50 (2.12; 2 of 3)" and bszo["passes to 85 %"] == "3,000"
    # differences 2 and 3 on two seeds: t = 2.5 / (0.7071 / sqrt 2) = 5, one degree of freedom
    assert bszo["minus MeZO"] == "+2.50 (p = 0.13; 2)"
    assert lines["LOZO (bf16-sr)"]["test %"] == "diverged (1 of 3)"
    assert lines["BSZO, k = 8 (bf16-sr)"]["test %"] == "-"
    assert lines["AdamW (fp32)"]["minus MeZO"] == "+20.00 (1)"
    assert lines["AdamW (fp32)"]["passes to 85 %"] == "1,998"  # 666 steps of three passes


def test_a_method_whose_every_rate_failed_has_failed_with_every_seed(rows: dict[str, Row]):
    choice = Choice(None, failed=("diverged", "out_of_memory"))
    (line,) = accuracy_section(4000, [replace(rows["HiZOO"], choice=choice)]).rows
    assert line[1:3] == ("-", "diverged (3 of 3)")


def test_a_run_that_trains_nothing_or_another_model_stands_beside_no_grid(records: list[Plain]):
    class Both:
        def __init__(self) -> None:
            self.used: set[str] = set()

        def records(self, profile: str) -> list[Plain]:
            return records if profile == "real" else single

    trained = {**records[0], "signature": "trained"}
    elsewhere = {**trained["choices"], "model": "another"}
    single = [
        trained,
        {**trained, "signature": "zero-shot", "num_steps": 0},
        {**trained, "signature": "of another model", "choices": elsewhere},
    ]
    inputs = Both()
    sections(ARTEFACTS["table_real"], inputs)  # type: ignore[arg-type]
    assert inputs.used == {record["signature"] for record in (*records, trained)}


def test_the_short_runs_have_a_table_of_their_own():
    """Both budgets have their rates from the same runs, and cells of their own."""
    short = grid_of(1000)
    mezo = first(short, optimizer="mezo")
    records = chosen(short, mezo, [0.9, 0.4, 0.6])
    records += cells(short, mezo, "3e-5", [0.5, 0.6, 0.7, 0.7, 0.75], [0.7, 0.72])
    found = {budget: rows_of(grid_of(budget), Shelf(records))[0] for budget in (1000, 4000)}
    assert {row.choice.point["optimizer.lr"] for row in found.values() if row.choice.point} == {
        "3e-05"
    }
    section = accuracy_section(1000, [found[1000]])
    line = dict(zip(section.columns, section.rows[-1], strict=True))
    assert section.title == "1,000 forward passes" and line["test %"] == "71.00 (1.41; 2 of 3)"
    assert line["validation % at 500"] == "70.00 (0.00; 2 of 3)" and not found[4000].well


def test_what_trains_nothing_has_lines_of_its_own(rows: dict[str, Row]):
    """Its scores are those before training, which it has none of: mean, deviation, runs."""
    point = {"model": "smollm2-135m", "task": "sst2", "optimizer": "mezo", "tuning": "in-context"}
    records = []
    biased = (0, "fitted", [0.68])
    for shots, bias, scores in ((32, "", [0.7]), (8, "", [0.5, 0.6, 0.76]), biased):
        for seed, score in enumerate(scores):
            record = answer({**point, "precision": "bf16-sr", "seed": str(seed)}, [0.5, 0.5], 0.0)
            record["config"]["tuning"] = {"method": "in-context", "num_shots": shots}
            if bias:
                record["config"]["protocol"]["label_bias"] = bias
                record["model"]["label_bias"] = [-1.084, 1.084]
            records.append({**record, "zero_shot_accuracy": score, "test_accuracy": None})
    probed = answer({**point, "precision": "bf16-sr", "seed": "0"}, [0.5, 0.5], 0.0)
    probed["config"]["tuning"] = {"method": "linear-probe", "start": "fitted"}
    probed["model"]["probe"] = {"spread": 0.03, "held_out_losses": [[0.01, 0.7], [0.03, 0.454]]}
    trained = {**probed, "config": deepcopy(probed["config"])}  # steps followed
    probed["config"]["protocol"]["num_steps"] = 0
    probed |= {"zero_shot_accuracy": 0.81, "test_accuracy": None}
    assert is_untrained(probed) and not is_untrained(trained)
    section = accuracy_section(4000, list(rows.values()), [probed, *records])
    untrained = ("zero-shot", "in-context", "linear probe")
    found = [line for line in section.rows if line[0].startswith(untrained)]
    assert [line[:6] for line in found] == [
        ("zero-shot (bf16-sr)", "-", "52.00", "-", "0.500", "50.00 at 0"),
        ("zero-shot, label bias (bf16-sr)", "-", "68.00", "-", "0.500", "50.00 at 0"),
        ("in-context, 8 rows (bf16-sr)", "-", "62.00 (13.11; 3)", "-", "0.500", "50.00 at 0"),
        ("in-context, 32 rows (bf16-sr)", "-", "70.00", "-", "0.500", "50.00 at 0"),
        ("linear probe, 1,000 rows (bf16-sr)", "-", "81.00", "-", "0.500", "50.00 at 0"),
    ]
    few = {**probed, "config": {**probed["config"], "task": {"prompt": "none"}}}
    few["data"] = {"num_examples": {**probed["data"]["num_examples"], "train": 32}}
    every = probe_section([*records, few, trained, probed])
    assert every is not None and probe_section(records) is None
    assert every.rows == (
        ("sst2", "1,000", "0", "50.0", "0.500", "81.0", "0.03", "0.454"),
        ("sst2, prompt=none", "32", "0", "50.0", "0.500", "81.0", "0.03", "0.454"),
    )
    every = label_bias_section(records)
    assert every is not None and label_bias_section(records[:-1]) is None
    assert every.rows == (("sst2", "0", "0", "50.0", "0.500", "68.0", "-1.08, +1.08"),)
    assert {len(line) for line in section.rows} == {len(section.columns)}
    every = in_context_section(records[::-1])
    assert every is not None and in_context_section([]) is None
    assert every.rows == (
        ("8", "0", "50.0", "0.500", "50.0", "3"),
        ("8", "1", "50.0", "0.500", "60.0", "3"),
        ("8", "2", "50.0", "0.500", "76.0", "3"),
        ("32", "0", "50.0", "0.500", "70.0", "3"),
    )


def test_rates_show_what_was_chosen_and_what_is_to_do(records: list[Plain]):
    section = rates_section({b: rows_of(grid_of(b), Shelf(records)) for b in (1000, 4000)})
    columns = ("method", "lr: loss after 1,000", "lr: loss after 4,000", "to do")
    assert section.columns == columns
    lines = {line[0]: line[1:] for line in section.rows}
    short = "1e-05: 0.600, [3e-05: 0.400], 0.0001: 0.900"
    assert lines["MeZO"] == (short, "1e-05: 0.600, [3e-05: 0.500]", "-")
    # the longer budget waits for the shorter one's choice, whose missing run is counted once
    assert lines["BSZO, k = 8"] == (*["1e-05: 0.600, 3e-05: 0.500, 0.0001: 0.200"] * 2, "1")
    assert lines["HiZOO"] == ("-", "-", "3")


def test_a_longer_budget_begins_with_the_shorter_one_s_rate_and_goes_down():
    """4,000 passes never try 1e-4, which lost at 1,000; 3e-6 must have been tried below 1e-5."""
    grids = {budget: grid_of(budget) for budget in (1000, 4000)}
    short, long = (first(grid, optimizer="mezo") for grid in grids.values())
    records = chosen(grids[1000], short, [0.9, 0.4, 0.6])  # 1e-4, 3e-5, 1e-5

    def rows() -> dict[int, list[Row]]:
        return {b: rows_of(grid, Shelf(records))[:1] for b, grid in grids.items()}

    def asked() -> list[str]:
        missing = rows()[4000][0].choice.missing
        assert {run["protocol.max_forwards"] for run in missing} <= {"4000"}
        return [run["optimizer.lr"] for run in missing]

    for rate, loss in (("3e-05", 0.7), ("1e-05", 0.5), ("3e-06", 0.6)):
        assert [float(text) for text in asked()] == [float(rate)]
        records.append(answer({**long, "optimizer.lr": rate}, [0.5, 0.6], 0.6, loss))
    assert asked() == []
    assert rates_section(rows()).rows == (
        (
            "MeZO",
            "1e-05: 0.600, [3e-05: 0.400], 0.0001: 0.900",
            "3e-06: 0.600, [1e-05: 0.500], 3e-05: 0.700",
            "-",
        ),
    )
    records = records[1:2]  # where the shorter one has not chosen, its runs are missing first
    assert {run["protocol.max_forwards"] for run in rows()[4000][0].choice.missing} == {"1000"}


def test_passes_count_what_they_cost(grid: Grid):
    adamw = {**first(grid, optimizer="adamw"), "optimizer.algorithm.lr": "1e-5"}
    forward = {**first(grid, optimizer="forward-grad"), "optimizer.lr": "1e-5"}
    mezo = {**first(grid, optimizer="mezo"), "optimizer.lr": "1e-5"}
    for point, each, passes in ((adamw, 3, 3999), (forward, 3, 3999), (mezo, 1, 4000)):
        record = answer(point, [0.5, 0.6], 0.6)
        assert weight(record) == each and curve(record)[-1] == (passes, 60.0)


def test_an_evaluation_far_from_the_budget_is_none(grid: Grid):
    record = answer({**grid.points[0], "optimizer.lr": "1e-5"}, [0.5, 0.6, 0.7], 0.6)  # 0 2000 4000
    assert at_budget(record, 2000) == 60.0 and at_budget(record, 2200) == 60.0
    assert at_budget(record, 1000) is None and at_budget(record, 3000) is None
    assert passes_to(record, 60.0) == 2000 and passes_to(record, 70.1) is None


def test_passes_to_the_lowest_loss_of_another_method(grid: Grid):
    """Each seed has its own level; a seed that never comes there is counted, and one that the
    other method has not run is not."""
    mezo, bszo = first(grid, optimizer="mezo"), first(grid, optimizer="bszo", optimizer_k="2")

    def row(point: Point, courses: list[list[float | None]]) -> Row:
        runs = {}
        for seed, course in enumerate(courses):
            record = answer(point, [0.5] * len(course), 0.7)
            for evaluation, loss in zip(record["curve"], course, strict=True):
                evaluation["validation_loss"] = loss
            runs[str(seed)] = record
        return Row(point["optimizer"], "fp32", Choice(point), "optimizer.lr", {}, runs)

    other = row(mezo, [[0.9, 0.5, 0.6], [0.9, 0.7, 0.4]])
    own = row(bszo, [[0.9, 0.6, 0.4, 0.4, 0.3], [0.9, 0.5, None], [0.9, 0.1, 0.1]])
    passes, count = passes_to_best(own, other)
    assert passes == pytest.approx([1500.0]) and count == 2  # half of the way from 0.6 to 0.4
    assert passes_to_best(other, other) == ([2000.0, 4000.0], 2)
    failed, less = (
        replace(own, runs={**own.runs, seed: {**(own.runs[seed] or {}), "status": "diverged"}})
        for seed in ("0", "1")
    )
    assert passes_to_best(failed, other) == ([], 2)  # a run that failed never comes there
    assert mean_last_loss(failed) == "0.100 (1 of 3)"
    assert mean_last_loss(less) == "0.200 (0.141; 2 of 3)"
    silent = row(mezo, [[None, None], [0.9, 0.5]])
    passes, count = passes_to_best(own, silent)
    assert passes == pytest.approx([2000.0]) and count == 1
    assert (
        mean_last_loss(own) == "0.200 (0.141; 2 of 3)"
        and mean_last_loss(silent) == "0.500 (1 of 2)"
    )


def test_a_run_that_never_comes_somewhere_is_later_than_all_that_do():
    assert reached([300.0, 100.0], 2) == "200" and reached([], 2) == "-"
    assert reached([300.0, 100.0], 3) == "300 (2 of 3)"
    assert reached([300.0], 2) == "- (1 of 2)" and reached([300.0], 3) == "- (1 of 3)"


def test_seeds_beyond_the_grid_s_count_where_both_methods_have_them():
    short = grid_of(1000)
    mezo, bszo = first(short, optimizer="mezo"), first(short, optimizer="bszo", optimizer_k="2")
    records = chosen(short, mezo, [0.9, 0.4, 0.6]) + chosen(short, bszo, [0.9, 0.4, 0.6])
    for point, tests in ((mezo, (0.6, 0.6, 0.6, 0.6, 0.5)), (bszo, (0.7, 0.6, 0.8, 0.7))):
        records += cells(short, point, "3e-5", [0.5, 0.6], list(tests))
    records[-3]["status"] = "diverged"  # BSZO's seed 1
    shelf = Shelf(records)
    rows = {row.name: row for row in rows_of(short, shelf)}
    # differences 10, 20, 10 of the seeds 0, 2, 3
    assert over_seeds(rows["BSZO, k = 2"], rows["MeZO"], shelf) == "+13.33 (p = 0.057; 3)"
    assert against(rows["BSZO, k = 2"], rows["MeZO"]) == "+15.00 (p = 0.2; 2)"
    assert over_seeds(rows["HiZOO"], rows["MeZO"], shelf) == "-"
    assert mean_last_loss(rows["MeZO"]) == "0.500 (0.000; 3)"
    assert mean_last_loss(rows["HiZOO"]) == "-"


def test_no_test_is_made_of_equal_differences(rows: dict[str, Row]):
    assert against(rows["MeZO"], rows["MeZO"]) == "-"
    assert against(rows["HiZOO"], rows["MeZO"]) == "-"


def test_the_course_of_every_run():
    """Each rate's run with seed 0, then the chosen rate's other seeds; a failure is said."""
    short = grid_of(1000)
    mezo = first(short, optimizer="mezo")
    records = chosen(short, mezo, [0.9, 0.4, 0.6])
    records += cells(short, mezo, "3e-5", [0.5, 0.6, 0.7, 0.7, 0.75], [0.7, 0.72])
    other = {**mezo, "seed": "2", "optimizer.lr": "3e-5"}
    records.append({**answer(other, [0.5, 0.6], 0.6), "status": "diverged"})
    (row, *_) = rows_of(short, Shelf(records))
    section = course_section(1000, [row])
    assert section is not None
    assert section.rows == (
        ("MeZO", "1e-05", "0", "-", "-", "-", "0.600 (60.0)", "0.600 at 0", "0.0"),
        (
            "MeZO",
            "3e-05",
            "0",
            "0.500 (60.0)",
            "0.500 (70.0)",
            "0.500 (70.0)",
            "0.500 (75.0)",
            "0.500 at 0",
            "70.0",
        ),
        ("MeZO", "0.0001", "0", "-", "-", "-", "0.900 (60.0)", "0.900 at 0", "0.0"),
        (
            "MeZO",
            "3e-05",
            "1",
            "0.500 (60.0)",
            "0.500 (70.0)",
            "0.500 (70.0)",
            "0.500 (75.0)",
            "0.500 at 0",
            "72.0",
        ),
        ("MeZO", "3e-05", "2", *["diverged"] * 4, "0.500 at 0", "-"),
    )
    starts = "0.500 (50.0) or 0.600 (50.0) or 0.900 (50.0)"
    assert f"after so many passes; {starts} before the first, as type" in section.notes[0]


def test_the_gain_of_every_rate_that_was_tried():
    grid = grid_of(1000)
    bszo = first(grid, optimizer="bszo", optimizer_k="2")
    records = chosen(grid, bszo, [0.7, 0.5, 0.6])
    assert gain_section(rows_of(grid, Shelf(records))) is None  # no run says one
    for record, gains in zip(records, ([0.5, 0.25], [0.75, None], []), strict=True):
        ends = (240, 1000)
        record["curve"] = [
            {**record["curve"][0], "num_forwards": end, "gain": gain}
            for end, gain in zip(ends, gains or [None, None], strict=True)
        ]
    section = gain_section(rows_of(grid, Shelf(records)))
    assert section is not None
    rates = [f"{float(run['optimizer.lr']):g}" for run in grid.candidates(bszo)]
    assert section.rows == (
        ("BSZO, k = 2", rates[1], "0.750", "-", "-"),
        ("BSZO, k = 2", rates[0], "0.500", "-", "0.250"),
    )


def test_a_run_beside_the_grid_says_what_it_changes():
    """A cell's own run is not among them, a twin names its processor; one without a score has
    dashes."""
    short = grid_of(1000)
    mezo = first(short, optimizer="mezo")
    records = chosen(short, mezo, [0.9, 0.4, 0.6])
    records += cells(short, mezo, "3e-5", [0.5, 0.6, 0.7, 0.7, 0.75], [0.7, 0.72])
    rows = rows_of(short, Shelf(records))
    assert beside_section(rows, rows[0].all_runs) is None and beside_section([], records) is None
    cell = rows[0].runs["0"]
    assert cell is not None
    smaller = answer({**mezo, "optimizer.lr": "3e-5"}, [0.5, 0.6, 0.7, 0.7, 0.75], 0.64)
    smaller["config"]["optimizer"]["eps"] = 1e-4
    seed = answer({**mezo, "optimizer.lr": "1e-4", "seed": "2"}, [0.5, 0.6], 0.61)
    twin = {**cell, "test_accuracy": 0.5, "provenance": {"hardware": {"cpu": "another one"}}}
    failed = {**smaller, "status": "diverged", "signature": "failed"}
    again = {**cell, "test_accuracy": None}
    again["curve"] = [{**point, "validation_loss": None} for point in cell["curve"]]
    section = beside_section(rows, [*rows[0].all_runs, smaller, seed, twin, failed, again])
    assert section is not None
    accuracies = ("60.0", "70.0", "70.0", "75.0")
    courses = (*(f"0.500 ({accuracy})" for accuracy in accuracies), "0.500 at 0")
    assert section.rows == (
        ("MeZO", "-", "0.0001", "2", "1,000", "-", "-", "-", "0.500 (60.0)", "0.500 at 0", "61.0"),
        ("MeZO", "again", "3e-05", "0", "1,000", *["-"] * 6),
        ("MeZO", "eps=0.0001", "3e-05", "0", "1,000", *courses, "64.0"),
        ("MeZO", "eps=0.0001", "3e-05", "0", "1,000", *courses[:3], "diverged", "0.500 at 0", "-"),
        ("MeZO", "processor: another one", "3e-05", "0", "1,000", *courses, "50.0"),
    )


def test_a_run_of_another_task_is_shown_apart():
    """Its task is no change, anything else is; a run of the study's own task is not among them."""
    short = grid_of(1000)
    mezo = first(short, optimizer="mezo")
    rows = rows_of(short, Shelf(chosen(short, mezo, [0.9, 0.4, 0.6])))
    other = answer({**mezo, "optimizer.lr": "3e-5"}, [0.5, 0.6, 0.7, 0.7, 0.75], 0.64)
    other["choices"] = {**other["choices"], "task": "trec"}
    other["config"]["task"] = {"name": "trec"}
    other["zero_shot_accuracy"] = 0.25
    other["curve"][2]["validation_loss"] = 0.4
    smaller = deepcopy(other)
    smaller["config"]["optimizer"]["eps"] = 1e-4
    section = tasks_section(rows, [other, smaller])
    assert section is not None
    accuracies = ("0.500 (60.0)", "0.400 (70.0)", "0.500 (70.0)", "0.500 (75.0)")
    course = (*accuracies, "0.400 at 500")
    run = ("3e-05", "0", "1,000", "25.0", *course, "64.0")
    assert section.rows == (
        ("trec", "MeZO", "-", *run),
        ("trec", "MeZO", "eps=0.0001", *run),
    )
    assert tasks_section(rows, []) is None and tasks_section([], [other]) is None


def test_the_cell_of_the_same_method_is_nearer_than_one_with_fewer_changes():
    short = grid_of(1000)
    mezo = answer({**first(short, optimizer="mezo"), "optimizer.lr": "3e-5"}, [0.5, 0.6], 0.6)
    fzoo = answer({**first(short, optimizer="fzoo"), "optimizer.lr": "3e-5"}, [0.5, 0.6], 0.6)
    cells = {"a": fzoo, "b": mezo}
    record = answer({**first(short, optimizer="fzoo"), "optimizer.lr": "3e-5"}, [0.5, 0.6], 0.6)
    record["choices"] = mezo["choices"]
    record["config"]["optimizer"]["seed"] = 3  # as the run's seed, of which it says nothing
    (key,) = (k for k in mezo["config"]["protocol"] if k == "eval_every")
    value = fzoo["config"]["protocol"][key]
    assert nearest(record, cells) == ("b", f"protocol.{key}={value}")
    assert nearest({**record, "choices": fzoo["choices"]}, cells) == ("a", "-")


def test_of_cells_as_near_the_one_on_the_same_processor_is_told():
    def on(processor: str, key: str, lr: str = "3e-5") -> dict[str, Any]:
        point = {**first(grid_of(1000), optimizer="mezo"), "optimizer.lr": lr}
        record = answer(point, [0.5, 0.6], 0.6)
        record["provenance"]["hardware"] = {"cpu": processor}
        record["config"]["protocol"]["max_eval_examples"] = key
        return record

    here, there = on("here", "a"), on("there", "a", "1e-5")
    cells = {"1": there, "2": here}
    change = "protocol.max_eval_examples=b"
    assert nearest(on("here", "b"), cells) == ("2", change)
    assert nearest(on("there", "b", "1e-5"), {"2": here}) == ("2", f"{change}, processor: there")
    assert nearest(on("there", "a"), {"2": here}) == ("2", "processor: there")
    assert nearest(on("here", "a"), {"2": here}) == ("2", "again")


def test_another_folder_of_the_same_weights_is_no_change():
    short = grid_of(1000)
    mezo = answer({**first(short, optimizer="mezo"), "optimizer.lr": "3e-5"}, [0.5, 0.6], 0.6)
    record = deepcopy(mezo)
    record["config"]["model"]["path"] = "smollm2-135m@2"
    assert nearest(record, {"a": mezo}) == ("a", "-")
    record["model"] = {"fingerprint": "of others"}
    assert nearest(record, {"a": mezo}) == ("a", "model.path=smollm2-135m@2")
    # of one file, in two types
    mezo["model"]["origin"] = {"sha256": "f"}
    record["model"] = {"fingerprint": "of others", "origin": {"sha256": "f"}}
    assert nearest(record, {"a": mezo}) == ("a", "-")


def test_nothing_run_yet_is_a_table_of_dashes(grid: Grid, tmp_path: Path):
    section = accuracy_section(4000, rows_of(grid, Shelf([])))
    assert 3 * len(section.rows) == len(grid.points) and all(
        set(line[1:]) == {"-"} for line in section.rows
    )
