"""What an artefact consists of, and which record answers which point."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments import CONF
from experiments.sweeps.estimate import a_step, forwards_of
from experiments.sweeps.grid import PROFILES, Grid, GridError, load, names, next_rate, parse, read
from experiments.sweeps.selection import MOST_RATES, Shelf, missing_runs
from experiments.tables.configured import SAME, hyperparameters, splits
from tests.tables.conftest import SWEEP, Make

Records = list[dict[str, Any]]


def shelf(records: Records, conf: Path) -> Shelf:
    return Shelf(records, conf)


def test_points_are_the_product_of_the_axes(grid: Grid):
    assert len(grid.points) == 2 * 2 * 2 * 2
    assert len({tuple(sorted(point.items())) for point in grid.points}) == 16
    assert grid.points[0] == {
        "data": "mini",
        "protocol": "quick",
        "model": "small",
        "precision": "fp32",
        "task": "sst2",
        "optimizer": "mezo",
        "fidelity": "official",
        "seed": "0",
    }


def test_combinations_are_left_out(conf: Path):
    left = parse({**SWEEP, "without": ["optimizer=mezo task=rte"]}, "mini", conf).points
    assert len(left) == 12 and not any(
        point["optimizer"] == "mezo" and point["task"] == "rte" for point in left
    )


def test_what_is_missing_at_first_and_after_the_choice(grid: Grid, full: Records, conf: Path):
    choosing, cells = missing_runs(grid, shelf([], conf))
    # tasks x methods x rates, of seed 0 corrected
    assert len(choosing) == 2 * 2 * 2 and cells == []
    chosen = [
        r for r in full if r["config"]["seed"] == 0 and r["choices"]["fidelity"] == "corrected"
    ]
    choosing, cells = missing_runs(grid, shelf(chosen, conf))
    assert choosing == [] and len(cells) == 16 - 4  # those of the choice are cells already
    assert missing_runs(grid, shelf(full, conf)) == ([], [])


def test_validation_chooses_and_the_test_does_not(grid: Grid, full: Records, conf: Path):
    choice = shelf(full, conf).choose(grid, grid.points[0])
    assert choice.point is not None
    # validation 0.9; the other has the greater test score
    assert choice.point["optimizer.lr"] == "0.001"
    assert choice.validation == {"0.001": 0.9, "0.0001": 0.6}


def test_of_equal_rates_the_smaller_is_chosen(grid: Grid, full: Records, conf: Path):
    for record in full:
        record["validation_accuracy"] = 0.6
    choice = shelf(full, conf).choose(grid, grid.points[0])
    assert choice.point is not None and choice.point["optimizer.lr"] == "0.0001"


def test_a_rate_that_diverged_is_not_chosen_and_all_of_them_is_a_failure(
    grid: Grid, full: Records, conf: Path
):
    mine = [
        r for r in full if r["choices"]["task"] == "sst2" and r["choices"]["optimizer"] == "mezo"
    ]
    by_rate = {
        rate: [r for r in mine if r["config"]["optimizer"]["lr"] == rate] for rate in (1e-3, 1e-4)
    }
    for record in by_rate[1e-3]:
        record["status"] = "diverged"
    choice = shelf(full, conf).choose(grid, grid.points[0])
    assert choice.point is not None and choice.point["optimizer.lr"] == "0.0001"
    by_rate[1e-4][0]["status"] = "diverged"
    assert shelf(full, conf).choose(grid, grid.points[0]).failed == ("diverged", "diverged")


@pytest.mark.parametrize("status", ["interrupted", "crashed"])
def test_no_rate_is_chosen_while_a_run_that_chooses_is_cut_short(
    grid: Grid, full: Records, conf: Path, status: str
):
    for record in full:
        if record["config"]["optimizer"]["lr"] == 1e-4:
            record["status"] = status
    choice = shelf(full, conf).choose(grid, grid.points[0])
    assert choice.point is None
    assert [run["optimizer.lr"] for run in choice.missing] == ["0.0001"]


@pytest.mark.parametrize(
    ("group", "key", "value"),
    [("protocol", "num_steps", 9), ("optimizer", "eps", 1e-3), ("optimizer", "noise_floor", 0.3)],
)
def test_a_run_with_other_settings_answers_nothing(
    grid: Grid, full: Records, conf: Path, group: str, key: str, value: float
):
    changed = copy.deepcopy(full)
    for record in changed:
        if group != "optimizer" or record["choices"]["optimizer"] == "bszo":
            record["config"][group][key] = value
    point = next(point for point in grid.points if point["optimizer"] == "bszo")
    assert shelf(full, conf).choose(grid, point).missing == ()
    assert len(shelf(changed, conf).choose(grid, point).missing) == 2


def test_of_two_runs_of_one_point_the_later_counts_and_the_other_is_named(
    grid: Grid, full: Records, conf: Path, make: Make
):
    point = grid.points[0]
    later = make(point, 1e-3, test=0.1, started="2026-02-01T00:00:00Z")
    found = shelf([*full, later], conf)
    record = found.find({**point, "optimizer.lr": "0.001"})
    assert record is not None and record["test_accuracy"] == 0.1 and len(found.doubles) == 1
    # one that was cut short hides none that ended
    cut = make(point, 1e-3, status="interrupted", started="2026-03-01T00:00:00Z")
    assert shelf([*full, later, cut], conf).find({**point, "optimizer.lr": "0.001"}) is later


def test_unusable_names_are_one_line(conf: Path):
    with pytest.raises(GridError, match=r"sweep=table99: no such artefact; .*table1.* are valid"):
        load("table99", "mini")
    with pytest.raises(GridError, match=r"sweep.profile=huge: toy has mini, paper"):
        parse(SWEEP, "huge", conf)
    with pytest.raises(GridError, match="no learning rates for bszo"):
        (conf / "rates" / "small.yaml").write_text("mezo: [1.0e-3]\n")
        poor = parse(SWEEP, "mini", conf)
        poor.candidates(next(point for point in poor.points if point["optimizer"] == "bszo"))


@pytest.mark.parametrize("name", names())
def test_every_artefact_can_be_run(name: str):
    """Every choice that its points name is a file, and every method has rates for every model."""
    for profile in read(name)["profiles"]:
        assert profile in PROFILES
        grid = load(name, profile)
        for point in grid.points:
            for group, choice in point.items():
                if "." not in group and group != "seed":
                    folder = CONF / group
                    assert not folder.is_dir() or (folder / f"{choice}.yaml").is_file(), (
                        f"{group}={choice}"
                    )
            assert grid.candidates(point) or grid.select is None


def test_the_shipped_defaults_are_the_paper_s():
    """Tables 6 to 10: a shipped value that differs from the paper's fails here."""
    for section in (splits(), *(hyperparameters(number) for number in (7, 8, 9, 10))):
        verdicts = {row[0]: row[-1] for row in section.rows if row[-1]}
        assert set(verdicts.values()) == {SAME}, verdicts
        assert len(verdicts) >= 5


def test_a_wrong_default_shows(tmp_path: Path):
    for group in ("fidelity", "optimizer", "protocol", "rates", "task"):
        (tmp_path / group).mkdir()
        for file in (CONF / group).glob("*.yaml"):
            (tmp_path / group / file.name).write_text(file.read_text())
    file = tmp_path / "optimizer" / "bszo.yaml"
    shipped = yaml.safe_load(file.read_text())
    for wrong in ({"k": 3}, {"eps": 1.2e-4}):
        file.write_text(yaml.safe_dump({**shipped, **wrong}))
        verdicts = {row[0]: row[-1] for row in hyperparameters(8, tmp_path).rows if row[-1]}
        assert verdicts["BSZO"] == "DIFFERS" and verdicts["MeZO"] == SAME


def growing(conf: Path, **more: Any) -> Grid:
    """The toy's grid in half decades, three of them to begin with; of one run a cell."""
    (conf / "rates" / "small.yaml").write_text("mezo: [3e-4, 1e-4, 3e-5]\nbszo: [3e-4, 1e-4]\n")
    node = {**SWEEP, "grows": True, "criterion": "validation_loss", **more}
    return parse(node, "mini", conf)


def losing(make: Make, run: dict[str, str], loss: float, status: str = "ok") -> dict[str, Any]:
    """The record of a run whose last evaluation has this loss, and whose accuracy says the
    opposite."""
    record = make(run, float(run["optimizer.lr"]), validation=min(0.99, loss / 10))
    record["status"] = status
    record["curve"] = [{**record["curve"][-1], "validation_loss": value} for value in (0.01, loss)]
    return record


@pytest.mark.parametrize(
    ("losses", "asked", "chosen"),
    [
        # rate -> loss of its last evaluation; the rates that are asked for one after another
        ({"3e-04": 5.0, "1e-04": 1.0, "3e-05": 2.0}, [], "0.0001"),
        ({"3e-04": 1.0, "1e-04": 2.0, "3e-05": 3.0, "1e-03": 4.0}, ["0.001"], "0.0003"),
        (
            {"3e-04": 3.0, "1e-04": 2.0, "3e-05": 1.0, "1e-05": 0.5, "3e-06": 0.9},
            ["1e-05", "3e-06"],
            "1e-05",
        ),
        # a rate that diverged is an end like any other
        ({"3e-04": None, "1e-04": 1.0, "3e-05": 2.0}, [], "0.0001"),
        (
            {"3e-04": None, "1e-04": None, "3e-05": None, "1e-05": 1.0, "3e-06": 2.0},
            ["1e-05", "3e-06"],
            "1e-05",
        ),
    ],
)
def test_no_rate_at_an_end_is_chosen(
    losses: dict[str, float | None], asked: list[str], chosen: str, conf: Path, make: Make
):
    grid = growing(conf)
    point = next(point for point in grid.points if point["optimizer"] == "mezo")
    by_rate = {float(rate): loss for rate, loss in losses.items()}
    records: Records = []
    further: list[str] = []
    while (choice := shelf(records, conf).choose(grid, point)).missing:
        rates = [run["optimizer.lr"] for run in choice.missing]
        further += rates if records else []
        for run in choice.missing:
            loss = by_rate[float(run["optimizer.lr"])]
            records.append(losing(make, run, loss or 0.0, "diverged" if loss is None else "ok"))
    assert further == asked
    assert choice.point is not None and choice.point["optimizer.lr"] == chosen


def test_a_grid_that_finds_no_end_stops_and_says_the_statuses(conf: Path, make: Make):
    grid = growing(conf)
    point = next(point for point in grid.points if point["optimizer"] == "mezo")
    records: Records = []
    while (choice := shelf(records, conf).choose(grid, point)).missing:
        records += [losing(make, run, 0.0, "diverged") for run in choice.missing]
    assert choice.point is None and choice.failed == ("diverged",) * MOST_RATES


def test_the_next_half_decade():
    rates = [1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3]
    assert [next_rate(rate, up=True) for rate in rates[:-1]] == rates[1:]
    assert [next_rate(rate, up=False) for rate in rates[1:]] == rates[:-1]
    between = {5e-3: (3e-3, 1e-2), 2e-3: (1e-3, 3e-3), 2.5e-3: (1e-3, 3e-3), 0.1: (3e-2, 0.3)}
    for rate, (down, up) in between.items():
        assert (next_rate(rate, up=False), next_rate(rate, up=True)) == (down, up)


def test_what_runs_have_where_they_have_certain_values(conf: Path):
    """A run that chooses has the budget of `select`, and with it what belongs to that budget."""
    where = {"optimizer=bszo": "protocol.num_steps=7", "seed=0 optimizer=mezo": "task=copa"}
    grid = growing(conf, where=where)
    for point in grid.points:
        bszo = point["optimizer"] == "bszo"
        assert point.get("protocol.num_steps") == ("7" if bszo else None)
        assert (point["task"] == "copa") == (not bszo and point["seed"] == "0")
        for run in grid.candidates(point):
            assert run["seed"] == "0" and run.get("protocol.num_steps") == ("7" if bszo else None)
            assert (run["task"] == "copa") == (not bszo)
    with pytest.raises(GridError, match=r"sweep.criterion=test_accuracy: must be one of"):
        growing(conf, criterion="test_accuracy")


def test_table_3_on_a_real_model_chooses_its_rates_with_the_study_s_runs():
    """The other profiles keep the table's own rule; COPA has too few rows for the study's split."""
    grid, study = load("table3", "real"), load("real", "real")
    known = [run for point in study.points for run in study.candidates(point)]
    names = {key for run in known for key in run}
    assert grid.grows and grid.criterion == "validation_loss"
    for point in grid.points:
        rows = "100" if point["task"] in ("copa", "wsc") else "256"
        assert point["task.num_validation"] == rows
        for run in grid.candidates(point):
            assert run.keys() <= names and run in known
    mini = load("table3", "mini")
    assert not mini.grows and mini.criterion == "validation_accuracy"


def test_the_real_study_gives_every_method_the_same_passes():
    """A backward pass counts as two, a forward-mode pass as three; choosing takes as many."""
    grid = load("real", "real")
    costs = {"forward-grad": 3, "sgd": 3, "adamw": 3}
    for point in grid.points:
        cost, forwards = costs.get(point["optimizer"], 1), forwards_of(point)
        budget = int(point["protocol.max_forwards"])
        assert budget - 4 <= cost * forwards <= budget, point
        setting = tuple(f"{k}={v}" for k, v in sorted(point.items()) if k.startswith("optimizer."))
        number, passes = a_step(point["optimizer"], setting)
        assert passes == cost * number
        assert 243 <= int(point["protocol.eval_every"]) * passes <= 250, point
        for run in grid.candidates(point):
            assert budget - 4 <= cost * forwards_of(run) <= budget
            assert run["seed"] == "0"
