"""`--multirun sweep=...`: which runs are launched when, and how the files that follow from them are
written."""

import logging
import os
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from bszo.errors import ConfigError
from experiments import CONF
from experiments.config.compose import compose, composition, quoted, resolve
from experiments.config.messages import is_group
from experiments.plan import Line, as_table, plan, summary, total
from experiments.plan import main as plan_command
from experiments.records import record as records
from experiments.records import signing, store
from experiments.sweeps.estimate import Clock, forwards_of, memory_of
from experiments.sweeps.grid import Point, load, rates_of
from experiments.sweeps.progress import Progress, log, speak
from experiments.sweeps.selection import Shelf, missing_runs
from experiments.tables.artefacts import ARTEFACTS
from experiments.tables.inputs import Inputs
from experiments.training.build import named_by_content
from experiments.training.outcome import RunFailed
from hydra_plugins.grid_sweeper import GridSweeper
from scripts.study.select_rates import collect
from tests.forked import run_module
from tests.tables.conftest import Make

ROOT = Path(__file__).resolve().parents[2]


class Launcher:
    """Stands for Hydra's: notes the jobs and answers each with what `run` returns or raises."""

    def __init__(self, run: Any) -> None:
        self.run, self.launches = run, []

    def launch(self, jobs: Sequence[Sequence[str]], initial_job_idx: int) -> list[Any]:
        points = [
            {key: value for key, _, value in (text.partition("=") for text in job)} for job in jobs
        ]
        self.launches.append((initial_job_idx, points))
        return [SimpleNamespace(**self.run(job)) for job in self.launches[-1][1]]


class Failed:
    """A job's return that raises, as Hydra's does."""

    def __init__(self, code: int) -> None:
        self.code = code

    @property
    def return_value(self) -> Any:
        raise RunFailed("it failed", self.code)


_composition = cache(lambda *choices: composition(choices))


def composed(overrides: Sequence[str]) -> DictConfig:
    """`composition`, which takes Hydra a third of a second, once for all with the same choices of
    groups; a value is set in it afterwards."""
    read = OverridesParser.create().parse_overrides(list(overrides))
    config = deepcopy(_composition(*(o.input_line for o in read if is_group(o.key_or_group))))
    for override in read:
        if not is_group(override.key_or_group):
            OmegaConf.update(config, override.key_or_group, override.value(), merge=False)
    return config


def sweeper(runs: Path, run: Any, *more: str) -> tuple[GridSweeper, Launcher]:
    config: Any = composed(["sweep=table1", f"paths.runs={quoted(str(runs))}", *more])
    made = GridSweeper()
    made.composed, made.parser, made.launcher = config, OverridesParser.create(), Launcher(run)  # type: ignore[assignment]
    return made, made.launcher  # type: ignore[return-value]


def written(point: Point, folder: Path, validation: float) -> dict[str, Any]:
    """The record that a run of this job would leave, from the configuration as Hydra composes
    it."""
    job = [
        f"{key}={value}" for key, value in point.items() if not key.startswith(("paths.", "hydra."))
    ]
    public = signing.scientific(named_by_content(resolve(composed(job))))
    groups = ("task", "model", "optimizer", "precision", "data", "protocol", "fidelity", "tuning")
    filled: dict[str, Any] = {
        "schema_version": 1,
        "signature": signing.signature(public),
        "status": "ok",
        "reason": None,
        "choices": {group: point.get(group, "full") for group in groups},
        "config": public,
        "validation_accuracy": validation,
        "test_accuracy": 0.5,
        "peak_memory_kind": None,
        "warnings": {},
        "best_step": 1,
        "curve": [
            {
                "step": 1,
                "num_forwards": 1,
                "train_loss": None,
                "validation_accuracy": validation,
                "train_seconds": 1.0,
                "gain": None,
                "noise_var": None,
            }
        ],
        "data": {},
        "model": {},
        "provenance": {"started": "2026-01-01T00:00:00Z"},
    }
    record = {key: filled.get(key, 1) for key in records.FIELDS}
    store.write(record, folder)
    return {"return_value": record}


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What a sweep says."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    speak()
    log.addHandler(handler)
    yield said
    log.removeHandler(handler)


def test_values_set_afterwards_are_hydra_s_own():
    job = ["optimizer=bszo", "optimizer.k=4", "optimizer.lr=1e-3", "task=rte", "seed=2"]
    job += ["task.causal.prompt='{premise} So'", "data.num_test=20", "tracker.log_every=7"]
    assert resolve(composed(job)) == compose(job)


def test_a_sweep_says_how_far_it_is(
    tmp_path: Path, lines: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("experiments.sweeps.progress.LOOK_EVERY", 0.01)

    def run(job: Point) -> dict[str, Any]:
        made = written(job, tmp_path / "mini", 0.9)
        time.sleep(0.1)
        return made

    made, launcher = sweeper(tmp_path, run)
    made.sweep(["task=sst2", "optimizer=mezo"])
    assert all(job["tracker.progress"] == "never" for _, jobs in launcher.launches for job in jobs)
    assert lines[0] == "table1 mini: 3 runs to do to choose learning rates"
    counts = [
        re.match(r"table1 mini: (\d) of (\d), \d:\d\d:\d\d left; sst2 tiny-roberta", line)
        for line in lines[1:4]
    ]
    assert [found and found.groups() for found in counts] == [("1", "3"), ("2", "3"), ("3", "3")]
    assert lines[3].startswith("table1 mini: 3 of 3, 0:00:00 left") and lines[3].endswith(
        "lr=0.0001: 50.0 %"
    )
    assert lines[4] == "table1 mini: 9 runs to do for the cells" and len(lines) == 4 + 1 + 9 + 1
    assert re.fullmatch(r"table1 mini: 12 runs in \d:\d\d:\d\d, nothing is missing", lines[-1])


def test_progress_counts_its_own_runs_and_no_others(tmp_path: Path, lines: list[str]):
    grid = load("table1", "mini")
    mine, other = (
        {**grid.points[0], "fidelity": "corrected", "optimizer.lr": lr}
        for lr in ("0.001", "0.0003")
    )
    written(mine, tmp_path, 0.9)  # there already
    progress = Progress("t", [mine], tmp_path)
    written(other, tmp_path, 0.9)
    (tmp_path / "damaged.json").write_text("{")
    progress.look()
    assert lines == [] and progress.left == [mine]
    (made,) = tmp_path.glob(f"*-{written(mine, tmp_path, 0.8)['return_value']['signature']}.json")
    os.utime(made, ns=(1, 1))
    progress.look()
    assert progress.left == [] and len(lines) == 1


def test_first_the_rates_then_the_cells(tmp_path: Path):
    tmp_path = tmp_path / "Tom's runs, {a=(1)}"

    def run(job: Point) -> dict[str, Any]:
        return written(job, tmp_path / "mini", 0.9 if job["optimizer.lr"] == "0.0003" else 0.6)

    made, launcher = sweeper(tmp_path, run)
    made.sweep(
        ["sweep=table1", "task=sst2", "optimizer=mezo", "tracker.log_every=7", "tracker=wandb"]
    )
    (first, choosing), (second, cells) = launcher.launches
    assert (first, second) == (0, 3)
    assert [job["optimizer.lr"] for job in choosing] == ["0.001", "0.0003", "0.0001"]
    assert {job["seed"] for job in choosing} == {"0"} and {job["fidelity"] for job in choosing} == {
        "corrected"
    }
    assert len(cells) == 9 and {job["optimizer.lr"] for job in cells} == {"0.0003"}
    assert all(
        (job["tracker.log_every"], job["tracker"]) == ("7", "wandb") for job in choosing + cells
    )
    folders = {
        str(made.parser.parse_override(f"paths.runs={job['paths.runs']}").value())
        for job in choosing + cells
    }
    assert folders == {str(tmp_path / "mini")}
    again, launcher = sweeper(tmp_path, run)
    again.sweep(["sweep=table1", "task=sst2", "optimizer=mezo"])
    assert launcher.launches == []  # every run has its record


@pytest.mark.parametrize(
    ("argument", "eps"),
    [
        ("optimizer.eps=1e-3", {"1e-3"}),
        ("optimizer.eps=0.001", {"1e-3"}),
        ("optimizer.eps=1e-3,1e-4", {"1e-3", "1e-4"}),
    ],
)
def test_a_number_is_picked_however_it_is_written(tmp_path: Path, argument: str, eps: set[str]):
    made, _ = sweeper(tmp_path, None)
    wanted, passed = made._split(load("walk", "mini"), ["precision=bf16", argument])
    assert {point["optimizer.eps"] for point in wanted.points} == eps and passed == []
    assert {point["precision"] for point in wanted.points} == {"bf16"}


def test_every_local_model_and_folder_of_rows_has_runs_of_its_own(tmp_path: Path):
    """`model=local` and `data=local` are points of any of them; the records of all lie in one
    folder."""
    for name in ("a", "b"):
        for file in ("model/config.json", "rows/sst2/train.jsonl"):
            (tmp_path / name / file).parent.mkdir(parents=True)
            (tmp_path / name / file).write_text(f'{{"{name}": 1}}')
    launched = []
    for model, rows in ("aa", "aa", "ba", "bb", "ba"):
        local = [
            "model=local",
            f"model.path={tmp_path / model / 'model'}",
            "data=local",
            f"data.root={tmp_path / rows / 'rows'}",
        ]
        made, launcher = sweeper(
            tmp_path / "runs",
            lambda job: written(job, tmp_path / "runs" / "local", 0.9),
            "sweep.profile=local",
            *local,
        )
        made.sweep(
            [*local, "sweep.profile=local", "task=sst2", "optimizer=mezo", "fidelity=corrected"]
        )
        launched.append(sum(len(jobs) for _, jobs in launcher.launches))
    assert launched == [launched[0], 0, launched[0], launched[0], 0] and launched[0] > 5


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("optimizer.betas", "[0.5,0.9]"),
        ("data.seed", "1"),
        ("data.num_test", "20"),
        ("model.max_length", "64"),
        ("task.causal.prompt", "'{sentence} So'"),
    ],
)
def test_a_run_with_an_override_fills_no_cell(tmp_path: Path, key: str, value: str):
    """Such a sweep's records lie in the same folder as the table's own."""
    grid = load("table1", "mini")
    point = next(p for p in grid.points if (p["optimizer"], p["task"]) == ("mezo-adam", "sst2"))
    point = {**point, "optimizer.lr": "0.001"}
    other = written({**point, key: value}, tmp_path, 0.9)["return_value"]
    assert Shelf([other]).find(point) is None
    assert Shelf([other, written(point, tmp_path, 0.9)["return_value"]]).find(point) is not None


def test_divergence_is_a_result_and_a_crash_is_not(tmp_path: Path):
    made, launcher = sweeper(tmp_path, lambda job: {})
    launcher.launch = lambda jobs, initial_job_idx: [Failed(3) for _ in jobs]  # type: ignore[method-assign]
    made.sweep(["task=sst2", "optimizer=mezo"])
    launcher.launch = lambda jobs, initial_job_idx: [Failed(1) for _ in jobs]  # type: ignore[method-assign]
    with pytest.raises(
        RunFailed,
        match="table1: 3 of 3 runs could not be run, the first because: it failed; the same",
    ):
        made.sweep(["task=sst2", "optimizer=mezo"])


def test_a_pick_that_leaves_nothing_is_an_error(tmp_path: Path):
    made, _ = sweeper(tmp_path, lambda job: {})
    with pytest.raises(ConfigError, match=r"optimizer=sgd: no run of table1 has it; valid: .*mezo"):
        made.sweep(["optimizer=sgd"])


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--multirun", "sweep=table99"], "sweep=table99: no such choice"),
        (
            ["--multirun", "sweep=table1", "sweep.profile=huge"],
            "sweep.profile=huge: table1 has paper, mini, local",
        ),
        (["sweep=table1"], "sweep=table1: its runs need --multirun"),
        (
            ["--multirun", "sweep=table1", "sweep.profile=local"],
            "model.path: needs a value (model=local model.path=DIR)",
        ),
        (
            [
                "--multirun",
                "sweep=table1",
                "sweep.profile=local",
                "model=local",
                "model.path=tests",
            ],
            "data.root: needs a value (data=local data.root=DIR)",
        ),
        (
            [
                "--multirun",
                "sweep=table1",
                "sweep.profile=local",
                "model=local",
                "model.path=nowhere",
            ],
            "model.path=nowhere: there is no such folder",
        ),
    ],
)
def test_the_command_s_errors_are_one_line(arguments: list[str], line: str, tmp_path: Path):
    where = f"paths.results={tmp_path}"
    done = run_module("experiments.run", *arguments, where, folder=tmp_path)
    assert done.returncode == 1 and done.stderr.startswith(line) and done.stderr.count("\n") == 1
    assert not list(tmp_path.rglob("*.json"))


def test_the_plan_counts_by_arithmetic():
    """Table 1: 5 tasks, 6 methods, 5 seeds, 2 fidelities; 3 rates chosen once for both."""
    grid = load("table1", "mini")
    lines = plan(grid, [])
    mezo, bszo = (lines["tiny-roberta", "fp32", name] for name in ("mezo", "bszo"))
    assert (mezo.cells, mezo.choosing, mezo.then) == (50, 15, 45)
    assert mezo.forwards == (15 + 45) * 200 * 2 and bszo.forwards == (15 + 45) * 200 * 3
    assert mezo.unknown == 60 and mezo.source == "nothing to go by"
    assert (
        summary(mezo, 1)
        == "60 runs, 0:00:00 of one process, without 60 runs that have nothing to go by"
    )
    assert total(lines.values()).cells == 300


def test_the_plan_of_a_part_counts_the_part(capsys: pytest.CaptureFixture[str]):
    """As `make plan-figure_gain`, whose runs are some of Table 3's three settings and of Figure 1's
    one."""
    picked = ["=".join(pair) for pair in ARTEFACTS["figure_gain"].picked.items()]
    assert plan_command(["table3", "figure1", "--profile", "mini", *picked]) == 0
    assert re.findall(r"^all +(\d+)", capsys.readouterr().out, re.MULTILINE) == ["3", "1"]
    command = ["make", "-n", "plan-figure_gain", "PROFILE=mini", "JOBS=2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert f"table3 figure1 --profile mini --jobs 2 {' '.join(picked)}" in done.stdout


def test_the_plan_s_seconds_are_those_of_records_alike(make: Make):
    """Training by the forward pass, evaluation and start by the run; first the method's own
    records, then others'."""
    grid = load("table1", "mini")
    mezo, bszo = (
        next(p for p in grid.points if p["optimizer"] == name) for name in ("mezo", "bszo")
    )
    known = [
        make(
            mezo,
            1e-3,
            train_seconds=40.0,
            num_forwards=400,
            evaluation_seconds=3.0,
            num_parts=1,
            provenance={"started": "", "seconds": 45.0},
        )
    ]
    clock = Clock(known)
    assert clock.seconds(mezo) == (pytest.approx(0.1 * 400 + 3 + 2), "1 records")
    assert clock.seconds(bszo) == (pytest.approx(0.1 * 600 + 3 + 2), "1 records of other methods")
    line = plan(grid, [], clock)["tiny-roberta", "fp32", "mezo"]
    assert (line.runs, line.seconds) == (60, pytest.approx(60 * 45.0))
    assert (
        summary(Line(then=2, seconds=90.0), 2)
        == "2 runs, 0:01:30 of one process, 0:00:45 with 2 at a time"
    )


def test_the_seconds_of_a_run_are_the_middle_of_those_alike(make: Make):
    """Of a method's own records; of the same model and precision; of the model. What failed, or
    began twice, says nothing of the start."""
    own, other = (
        next(p for p in load("table1", "mini").points if p["optimizer"] == name)
        for name in ("mezo", "bszo")
    )

    def took(point: Point, a_pass: float, evaluation: float, start: float | None, **more: Any):
        times = {"train_seconds": a_pass * 300, "evaluation_seconds": evaluation}
        seconds = {} if start is None else {"seconds": a_pass * 300 + evaluation + start}
        provenance = {"started": f"{a_pass} {evaluation}", **seconds}
        settings = {"num_forwards": 300, "num_parts": 1, "provenance": provenance, **times, **more}
        return make(point, 1e-3, **settings)

    clock = Clock(
        [
            took(own, 0.9, 70.0, 4.0),
            took(own, 0.1, 3.0, 2.0),
            took(own, 0.2, 5.0, 30.0),
            took(own, 99.0, 99.0, 99.0, status="diverged"),
            took(other | {"precision": "bf16"}, 0.6, 9.0, 999.0, num_parts=2),
            took(own | {"protocol": "paper"}, 77.0, 77.0, None),
            took(own | {"model": "tiny-opt"}, 88.0, 88.0, None),
        ]
    )
    assert clock.start == pytest.approx(4)
    assert clock.seconds(own) == (pytest.approx(0.2 * 400 + 5 + 4), "3 records")
    found = pytest.approx(0.2 * 600 + 5 + 4)
    assert clock.seconds(other) == (found, "3 records of other methods")
    narrow = clock.seconds(own | {"precision": "bf16"})
    assert narrow == (pytest.approx(0.6 * 400 + 9 + 4), "1 records of other methods")
    half = clock.seconds(own | {"precision": "fp16"})
    assert half == (pytest.approx(0.4 * 400 + 7 + 4), "4 records in other precisions")


def test_a_plan_of_two_sweeps_adds_them_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Of each 3 runs choose the rate and 9 go on from it; one of the 3 is there, 45 s long, so that
    2 are left of each. Where nothing is there, none can be estimated."""
    grid = load("table1", "mini")
    names = ("sst2", "mezo")
    mezo = next(p for p in grid.points if (p["task"], p["optimizer"]) == names)
    tried = grid.candidates(mezo)[0]
    times: dict[str, Any] = {"train_seconds": 40.0, "num_forwards": 400, "evaluation_seconds": 3.0}
    whole = {"num_parts": 1, "provenance": {"started": "", "seconds": 45.0}}
    known = [written(tried, tmp_path, 0.9)["return_value"] | times | whole]
    words = ["table1", "table1", "task=sst2", "optimizer=mezo", "--profile", "mini", "--jobs", "2"]
    for found, left, seconds in ((known, 22, "0:16:30"), ([], 24, "0:00:00")):
        monkeypatch.setattr("experiments.plan.gather", lambda _, found=found: (found, []))
        assert plan_command(words) == 0
        *rows, to_do, all_of_it = capsys.readouterr().out.splitlines()
        counted = [row.split()[1:5] for row in rows if row.startswith("all ")]
        assert counted == [["10", str(left // 2 - 9), "9", f"{left // 2 * 400:,}"]] * 2
        half, whole_time, whole_half = (
            ("0:08:15", "0:18:00", "0:09:00") if found else ("0:00:00", "0:00:00", "0:00:00")
        )
        without = ", without 24 runs that have nothing to go by" * (not found)
        start = f"To do: {left} runs, {seconds} of one process, {half} with 2 at a time"
        assert to_do == f"{start}{without}."
        start = f"From nothing, all of it: 24 runs, {whole_time} of one process, {whole_half}"
        assert all_of_it == f"{start} with 2 at a time{without}."


def test_the_paper_s_plan_takes_its_table_4():
    lines = plan(load("table3", "paper"), [])
    line = lines["opt-13b", "bf16", "mezo"]
    runs = line.choosing + line.then
    assert line.memory == "30.0 (Table 4)" and line.source == "Table 4, without evaluation"
    assert line.seconds == pytest.approx(runs * 20000 * 0.4642)
    names = ("opt-13b", "mezo")
    points = load("table3", "paper").points
    point = next(p for p in points if (p["model"], p["optimizer"]) == names)
    nothing = None, "nothing to go by"
    for other in ({"precision": "fp32"}, {"tuning": "lora"}):
        assert Clock([]).seconds(point | other) == nothing and memory_of(point | other) == "-"
    # the table's 16 bits are fp16 there, and those of any kind here
    mistral = point | {"model": "mistral-7b", "precision": "bf16"}
    assert Clock([]).seconds(mistral)[0] == pytest.approx(20000 * 0.2839)


def test_forward_passes_follow_the_arguments():
    point = load("table5b", "mini").points[0]
    assert forwards_of({**point, "optimizer.k": "8", "optimizer.m": "9"}) == 200 * 9


@pytest.mark.parametrize(
    ("optimizer", "forwards"), [("mezo", 100), ("bszo", 100), ("forward-grad", 33), ("adamw", 33)]
)
def test_a_budget_of_passes_ends_a_run_before_its_steps_do(optimizer: str, forwards: int):
    """Of 100 passes a step of the last two takes three, for one forward pass."""
    point = load("table1", "mini").points[0] | {"optimizer": optimizer}
    assert forwards_of(point | {"protocol.max_forwards": "100"}) == forwards
    steps = {"protocol.max_forwards": "10000", "protocol.num_steps": "5"}
    assert forwards_of(point | steps) == 5 * {"mezo": 2, "bszo": 3}.get(optimizer, 1)


def test_a_line_of_the_plan_has_a_time_where_one_of_its_runs_can_be_estimated():
    key, grid = ("tiny-roberta", "fp32", "mezo"), load("table1", "mini")
    for unknown, time_taken in ((0, "0:01:30"), (1, "0:01:30"), (2, "-")):
        columns = as_table(grid, {key: Line(then=2, seconds=90.0, unknown=unknown)}).columns
        assert list(columns[8].cells) == [time_taken] * 2  # the line's and that of all


def test_the_tuned_files_hold_what_was_chosen_and_from_what(tmp_path: Path):
    runs = tmp_path / "runs"
    grid = load("table1", "mini")
    for point in grid.points:
        if (
            point["task"] in ("sst2", "rte")
            and point["optimizer"] == "bszo"
            and point["seed"] == "0"
        ):
            for candidate in grid.candidates(point):
                wants = {"sst2": "0.01", "rte": "0.003"}[point["task"]]
                written(
                    candidate, runs / "mini", 0.9 if candidate["optimizer.lr"] == wants else 0.6
                )
    arguments = ("--runs", str(runs), "--out", str(tmp_path / "tuned"))
    done = run_module("scripts.study.select_rates", *arguments, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    file = tmp_path / "tuned" / "bszo" / "tiny-roberta.yaml"
    content = file.read_text()
    assert yaml.safe_load(content)["rates"] == {"float32": {"sst2": 0.01, "rte": 0.003}}
    assert content.count("90.0 % (") == 2 and content.count("60.0 % (") == 4
    node = OmegaConf.merge(
        {"precision": {"dtype": "float32"}, "task": {"name": "rte"}}, OmegaConf.load(file)
    )
    assert node.optimizer.lr == 0.003
    node.task.name = "trec"
    assert node.optimizer.lr == 0.003  # of two rates chosen once each the smaller


def test_a_tuned_file_is_for_the_method_as_it_is_by_default(tmp_path: Path):
    """In the profile paper each fidelity has a choice of its own; an ablation's k is not the
    method's."""
    for artefact in ("table1", "table5a"):
        grid = load(artefact, "paper")
        for point in (
            p
            for p in grid.points
            if (p["task"], p["optimizer"], p["seed"]) == ("sst2", "bszo", "0")
        ):
            for rate, candidate in enumerate(grid.candidates(point)):
                best = 0 if point["fidelity"] == "official" else 1
                written(candidate, tmp_path / "paper", 0.9 if rate == best else 0.6)
    ((pair, (rates, evidence)),) = collect(["table1", "table5a"], "paper", Inputs(tmp_path)).items()
    wanted = load("table1", "paper").rates["roberta-large", "bszo"][1]
    assert (
        pair == ("bszo", "roberta-large")
        and rates == {"float32": {"sst2": f"{wanted:g}"}}
        and len(evidence) == 1
    )


def test_every_shipped_rate_is_read():
    found = rates_of(["tiny-roberta"], CONF)
    assert found["tiny-roberta", "bszo"] == (0.03, 0.01, 0.003)
    choosing, cells = missing_runs(load("table1", "mini"), Shelf([]))
    assert len(choosing) == 5 * 6 * 3 and cells == []


def test_a_plan_of_no_run_is_an_error(capsys: pytest.CaptureFixture[str]):
    assert plan_command(["table1", "task=sst9", "--profile", "mini"]) == 1
    assert capsys.readouterr().err == "task=sst9: no run of table1 has it\n"


def test_a_plan_reads_what_a_sweep_is_told(capsys: pytest.CaptureFixture[str]):
    words = ["task=sst2", "optimizer=mezo,bszo", "device=cuda"]
    assert plan_command(["table1", "figure1", *words[:2], "--profile", "mini", words[2]]) == 0
    assert set(re.findall(r"^tiny-\S+ +\S+ +(\S+)", capsys.readouterr().out, re.MULTILINE)) == {
        "mezo",
        "bszo",
    }
    assert plan_command(["table1", "--profile", "local", "model.path=nowhere"]) == 1
    assert (
        capsys.readouterr().err == "model.path=nowhere: a folder is needed in the profile local\n"
    )
