"""Golden tables from records made by hand: means, failures, ties, missing seeds, damage."""

import csv
import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from experiments.records import store
from experiments.records.signing import signature
from experiments.records.store import gather
from experiments.render import main as render
from experiments.sweeps.grid import Grid, Point, load, parse
from experiments.sweeps.paper import PaperError, paper_table
from experiments.sweeps.selection import Choice
from experiments.tables import published
from experiments.tables.accuracy import (
    AVERAGE,
    UNFINISHED,
    Block,
    Kind,
    blocks,
    by_model,
    section,
)
from experiments.tables.artefacts import ARTEFACTS
from experiments.tables.budgets import BUDGETS
from experiments.tables.cells import Cell, cell_of
from experiments.tables.layout import Section, comma_separated, latex, markdown
from experiments.tables.paired import difference, p_value
from experiments.tables.raw_runs import sections
from tests.tables.conftest import SWEEP, Make

ROOT = Path(__file__).resolve().parents[2]
PLAIN = Kind(lambda point: point["optimizer"], lambda point: None)


class Local:
    """Records of the profile local alone."""

    def __init__(self, found: list[dict[str, Any]]) -> None:
        self.found = found
        self.used: set[str] = set()

    def records(self, profile: str) -> list[dict[str, Any]]:
        return self.found if profile == "local" else []


def of_local(make: Make, point: Point, rate: float, name: str, **more: Any) -> dict[str, Any]:
    """A run of table 1 with a local model."""
    record = make(point, rate, started=name, **more)
    record["config"] |= {
        "model": {"name": None, "path": f"{name}@1"},
        "protocol": {},
        "fidelity": {},
        "optimizer": {"lr": rate},
    }
    record["choices"]["model"] = name
    return record


def block_of(grid: Grid, found: list[dict[str, Any]], kind: Kind = PLAIN) -> Block:
    return next(blocks(grid, found, kind))


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (Cell((92.0, 93.0, 94.0), 3), "93.00 (1.00; 3)"),
        (Cell((92.0, 93.0), 5), "92.50 (0.71; 2 of 5)"),
        (Cell((92.0,), 5), "92.00 (1 of 5)"),
        (Cell((92.0,), 1), "92.00"),
        (Cell((), 5), "-"),
        (Cell((92.0, 93.0, 94.0), 5, ("diverged", "diverged")), "diverged (2 of 5)"),
        (Cell((92.0,), 5, ("out_of_memory",)), "out of memory (1 of 5)"),
        (
            Cell((92.0,), 5, ("diverged", "out_of_memory", "diverged")),
            "diverged 2, out of memory 1 (of 5)",
        ),
    ],
)
def test_a_cell_is_a_number_or_the_reason_why_not(cell: Cell, text: str):
    assert cell.text == text
    assert (cell.number is None) == (not text[0].isdigit())


def test_differences_of_equal_size_have_no_p():
    """57 of 100 is 56.99999999999999 per cent in a float: no difference that a test may see."""
    own, theirs = [100 * 0.30, 100 * 0.57], [100 * 0.28, 100 * 0.55]
    assert own[0] - theirs[0] != own[1] - theirs[1]
    assert p_value(own, theirs) is None and difference(own, theirs) == "+2.00 (2)"


def test_what_is_computed_from_unfinished_cells_is_marked(grid: Grid, full: list[dict[str, Any]]):
    some = [
        r
        for r in full
        if not (
            r["choices"]["task"] == "rte"
            and r["choices"]["fidelity"] == "corrected"
            and r["config"]["seed"] == 1
        )
    ]
    block = block_of(grid, some)
    assert UNFINISHED in block.notes and UNFINISHED not in block_of(grid, full).notes
    corrected = block.texts["mezo", "corrected"]
    assert corrected[AVERAGE].endswith(" ‡")
    assert not block.texts["mezo", "official"][AVERAGE].endswith("‡")
    less = block.texts["mezo", "corrected - official"]
    assert less["RTE"].endswith(" ‡") and less[AVERAGE].endswith(" ‡")
    assert not less["SST-2"].endswith("‡")


def test_what_no_number_is_computed_from_is_not_marked(grid: Grid, full: list[dict[str, Any]]):
    """All of a task's runs diverged: there is no average, and nothing is missing."""
    for record in full:
        if record["choices"]["task"] == "rte":
            record |= {"status": "diverged", "test_accuracy": None}
    block = block_of(grid, full)
    assert block.texts["mezo", "corrected"][AVERAGE] == "-" and UNFINISHED not in block.notes


def test_a_cell_mixes_no_two_sets_of_rows(grid: Grid, full: list[dict[str, Any]]):
    """The rows of the latest run of a task count, and what ran on others is named."""
    for record in full:
        task, seed = record["choices"]["task"], record["config"]["seed"]
        record["config"]["data"] = {"root": f"{task}@{'old' if seed else 'new'}"}
        record["provenance"]["started"] = f"2026-01-0{2 - seed}T00:00:00Z"
        record["signature"] = signature(record["config"])
    block = block_of(grid, full)
    assert block.outdated == {r["signature"] for r in full if r["config"]["seed"] == 1}
    assert "(1 of 2)" in block.texts["mezo", "corrected"]["RTE"]


def test_a_cell_mixes_no_two_sets_of_weights(grid: Grid, full: list[dict[str, Any]]):
    """A model's folder may hold other weights tomorrow; those of the latest run of a type count."""
    for record in full:
        seed = record["config"]["seed"]
        record["config"]["model"]["path"] = f"small@{seed}"
        record["model"] = {"fingerprint": f"{'old' if seed else 'new'}"}
        record["provenance"]["started"] = f"2026-01-0{2 - seed}T00:00:00Z"
        record["signature"] = signature(record["config"])
    block = block_of(grid, full)
    assert block.outdated == {r["signature"] for r in full if r["config"]["seed"] == 1}
    assert "(1 of 2)" in block.texts["mezo", "corrected"]["RTE"]
    old = [record for record in full if record["config"]["seed"] == 1]
    for node, change in (("precision", {"dtype": "bfloat16"}), ("model", {"quantization": "nf4"})):
        kept = [dict(record["config"]) for record in old]
        for record in old:  # another type has other bits
            record["config"][node] = {**record["config"].get(node, {}), **change}
        assert block_of(grid, full).outdated == set()
        for record, config in zip(old, kept, strict=True):
            record["config"] = config
    for record in old:  # an adapter begins with random ones
        record["choices"]["tuning"] = "lora"
    assert block_of(grid, full).outdated == set()


def test_a_failed_seed_is_said_and_never_averaged(make: Make, grid: Grid):
    runs = [make(grid.points[0], 1e-3, test=0.9), make(grid.points[1], 1e-3, status="diverged")]
    cell = cell_of([Choice(point) for point in grid.points[:2]], runs)
    assert cell.number is None and cell.text == "diverged (1 of 2)"


def test_the_golden_table(grid: Grid, full: list[dict[str, Any]]):
    block = block_of(grid, full)
    assert block.tasks == ["SST-2", "RTE"]
    deviation = statistics.stdev([70, 71])
    assert block.texts["mezo", "official"] == {
        "SST-2": f"70.50 ({deviation:.2f}; 2)",
        "RTE": f"70.50 ({deviation:.2f}; 2)",
        "AVG": "70.50",
    }
    assert block.numbers["bszo", "corrected"]["AVG"] == pytest.approx(80.5)
    assert block.texts["bszo", "corrected - official"]["SST-2"] == "+0.00"
    made = section(block)
    assert made.rows[0] == ("before training", "official", "50.00", "50.00", "50.00")
    assert [row[:2] for row in made.rows[1:]] == [
        ("before training", "corrected"),
        ("mezo", "official"),
        ("mezo", "corrected"),
        ("mezo", "corrected - official"),
        ("bszo", "official"),
        ("bszo", "corrected"),
        ("bszo", "corrected - official"),
    ]
    assert made.bold == frozenset()  # two rows of a source: nothing stands out


def test_missing_seeds_and_tasks(grid: Grid, full: list[dict[str, Any]]):
    some = [
        r
        for r in full
        if r["choices"]["task"] == "sst2"
        and not (r["config"]["seed"] == 1 and r["choices"]["optimizer"] == "mezo")
    ]
    block = block_of(grid, some)
    assert block.texts["mezo", "official"] == {"SST-2": "70.00 (1 of 2)", "RTE": "-", "AVG": "-"}
    assert section(block).rows[0] == ("before training", "official", "50.00", "-", "-")


def test_the_score_before_training_is_the_mean_of_the_runs_that_have_one(
    grid: Grid, full: list[dict[str, Any]]
):
    """0 is a score and None is not; a run that failed does not count."""

    def start(record: dict[str, Any]) -> float | None:
        names = ("sst2", "mezo", "official")
        found = tuple(record["choices"][key] for key in ("task", "optimizer", "fidelity"))
        return 0.6 * record["config"]["seed"] if found == names else None

    some = [{**record, "zero_shot_accuracy": start(record)} for record in full]
    assert block_of(grid, some).floors == {"official": {"SST-2": pytest.approx(30.0)}}
    failed = [
        {**record, "status": "diverged"} if record["config"]["seed"] == 1 else record
        for record in some
    ]
    assert block_of(grid, failed).floors == {"official": {"SST-2": 0.0}}


def test_the_best_two_stand_out_with_ties():
    block = Block("t", ["a"])
    for label, value in {"w": 1.0, "x": 3.0, "y": 2.0, "z": 2.0}.items():
        block.texts[label, "official"] = {"a": str(value)}
        block.numbers[label, "official"] = {"a": value}
    assert {section(block).rows[i][0] for i, _ in section(block).bold} == {"x", "y", "z"}
    block.floors["official"] = {"a": 9.0}
    assert {section(block).rows[i][0] for i, _ in section(block).bold} == {"x", "y", "z"}


def test_profiles_do_not_mix(full: list[dict[str, Any]], conf: Path):
    paper = parse(SWEEP, "paper", conf)
    block = block_of(paper, full)
    assert block.used == set() and block.texts["bszo", "corrected"]["SST-2"] == "-"


def test_the_paper_s_numbers_stand_beside_ours(full: list[dict[str, Any]], conf: Path, make: Make):
    paper = parse(SWEEP, "paper", conf)

    def printed(point: Point) -> str | None:
        texts = {
            ("mezo", "sst2"): "70.0 (1.0; 5)",
            ("mezo", "rte"): "60.0",
            ("mezo", "AVG"): "65.0",
            ("bszo", "sst2"): "75.0",
            ("bszo", "rte"): "collapsed",
            ("bszo", "AVG"): "75.0",
        }
        return texts.get((point["optimizer"], point["task"]))

    runs = [
        make(point, rate, test=0.73)
        for point in paper.points
        for rate in paper.rates["small", point["optimizer"]]
    ]
    block = block_of(paper, runs, replace(PLAIN, published=printed))
    assert block.texts["mezo", "paper"]["SST-2"] == "70.0 (1.0; 5)"
    assert block.texts["mezo", "official - paper"] == {
        "SST-2": "+3.00",
        "RTE": "+13.00",
        "AVG": "+8.00",
    }
    # the averages are over different tasks
    assert block.texts["bszo", "official - paper"] == {"SST-2": "-2.00", "RTE": "-", "AVG": "-"}
    assert block.texts["bszo", "paper"] == {"SST-2": "75.0", "RTE": "collapsed", "AVG": "75.0 †"}
    assert block.notes == [
        "† The paper's averages of bszo leave out the tasks that collapsed; the others' do not."
        " Over the same 1 tasks (SST-2): mezo 70.00, bszo 75.00."
    ]


def test_equal_budgets_cut_every_run_where_the_cheapest_ends(
    grid: Grid, full: list[dict[str, Any]]
):
    for record in full:
        if record["choices"]["optimizer"] == "bszo":
            record["num_forwards"] = 20
            continue
        record["num_forwards"], record["train_seconds"] = 10, 9.0
        record["curve"] = record["curve"][:2]
    forwards, seconds = (
        block_of(grid, full, replace(PLAIN, scoring=budget.scoring)) for budget in BUDGETS
    )
    # at 10 forward passes, not 90 at 20
    assert forwards.numbers["bszo", "corrected"]["SST-2"] == pytest.approx(80)
    # its own 2 seconds are the least
    assert seconds.numbers["bszo", "corrected"]["SST-2"] == pytest.approx(90)
    # the few passes of a run that failed are no budget
    failed = next(record for record in full if record["config"]["seed"] == 1)
    failed |= {"status": "diverged", "num_forwards": 1}
    block = block_of(grid, full, replace(PLAIN, scoring=BUDGETS[0].scoring))
    assert block.numbers["bszo", "corrected"] == forwards.numbers["bszo", "corrected"]


def test_damaged_and_foreign_files_are_named_and_left_out(
    tmp_path: Path, full: list[dict[str, Any]]
):
    for record in full[:3]:
        store.write(record, tmp_path)
    (tmp_path / "a-truncated.json").write_text('{"schema_version": 1, "sig')
    (tmp_path / "b-foreign.json").write_text('{"loss": 1}')
    older = {**full[3], "schema_version": 0}
    (tmp_path / "c-older.json").write_text(json.dumps(older))
    twin = {**full[0], "choices": {**full[0]["choices"], "task": "rte"}}
    store.write(twin, tmp_path)
    hollow: dict[str, Any] = {
        "config": {"seed": 0},
        "curve": [{"step": 0}],
        "choices": {"task": 3},
        "validation_accuracy": None,
    }
    for number, (key, value) in enumerate(hollow.items()):
        (tmp_path / f"d{number}-hollow.json").write_text(json.dumps({**full[4], key: value}))
    homeless = {key: value for key, value in full[4]["choices"].items() if key != "model"}
    (tmp_path / "e-homeless.json").write_text(json.dumps({**full[4], "choices": homeless}))
    found, problems = gather(tmp_path)
    assert {record["signature"] for record in found} == {full[1]["signature"], full[2]["signature"]}
    assert len(problems) == 9
    assert "d3-hollow.json: status ok without a validation accuracy" in problems
    assert "e-homeless.json: choices.model is not there" in problems
    assert "d0-hollow.json: config.model is no dict" in problems
    assert "d1-hollow.json: curve[0] has no sound num_forwards" in problems
    assert "d2-hollow.json: a choice is no text" in problems
    assert any("a-truncated.json: not whole JSON" in line for line in problems)
    assert any("b-foreign.json: not a run's record" in line for line in problems)
    assert any("c-older.json: schema_version 0" in line for line in problems)
    assert any(f"2 records with the signature {full[0]['signature']}" in line for line in problems)


def test_two_local_models_of_one_name_are_two(make: Make, grid: Grid):
    runs = [make(grid.points[0], 1e-3), make(grid.points[0], 1e-4), make(grid.points[1], 1e-3)]
    for run, path in zip(runs, ("m@1", "m@2", "n@1"), strict=True):
        run["config"]["model"], run["choices"]["model"] = {"name": None, "path": path}, path[0]
    assert by_model("local", runs) == [("m@1", [runs[0]]), ("m@2", [runs[1]]), ("n", [runs[2]])]


def test_a_paper_file_without_a_column_is_named(tmp_path: Path):
    (tmp_path / "table1.csv").write_text("model,method\nx,y\n")
    with pytest.raises(PaperError, match=r"table1.csv: no column 'task'; model, method are there"):
        paper_table("table1", ("method", "task"), folder=tmp_path)
    with pytest.raises(PaperError, match=r"table9.csv: not in"):
        paper_table("table9", ("method",), folder=tmp_path)
    (tmp_path / "table2.csv").write_text("method,accuracy\nx,1.0\ny,many\n")
    with pytest.raises(PaperError, match=r"table2.csv: line 3: accuracy 'many' is no number"):
        paper_table("table2", ("method",), ("accuracy",), tmp_path)
    (tmp_path / "table2.csv").write_text("method,accuracy\nx\n")
    with pytest.raises(
        PaperError, match=r"table2.csv: line 2 has not as many values as the 2 columns"
    ):
        paper_table("table2", ("method",), folder=tmp_path)
    (tmp_path / "table2.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(PaperError, match=r"table2.csv: not a CSV file in UTF-8"):
        paper_table("table2", ("method",), folder=tmp_path)


@pytest.mark.parametrize("number", [1, 3, 4, 5, 6, 7, 11, 12])
def test_a_table_without_the_paper_s_file_says_so_and_has_the_rest(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """A truncated record and a paper file with a column less: both in the footer, with a count, and
    on stderr."""
    (tmp_path / "runs" / "mini").mkdir(parents=True)
    (tmp_path / "runs" / "mini" / "a.json").write_text('{"schema_version": 1, "sig')
    name = "tables7to10" if number == 7 else f"table{number}"
    (tmp_path / f"{name}.csv").write_text("model\nx\n")
    monkeypatch.setattr("experiments.sweeps.paper.PAPER", tmp_path)
    folders = ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    assert render([f"table{number}", *folders]) == 0
    text = (tmp_path / "out" / f"table{number}.md").read_text()
    assert f"\n\nLeft out: 1 ({name}.csv: no column '" in text
    assert f"table{number}: Left out: 1 ({name}.csv" in capsys.readouterr().err
    if number not in (4, 6, 7):
        assert "\n\nLeft out of profile mini: 1 (a.json: not whole JSON" in text
        assert "| MeZO | official | - |" in text or "k = 1" in text or number == 11


def test_the_three_forms_say_the_same():
    one = Section("A & B", ("x_1", "y"), (("1|2", "50%"),), frozenset({(0, 1)}), ("note",))
    assert "| 1\\|2 | **50%** |" in markdown("T", [one], "generated by me")
    rows = list(csv.reader(comma_separated([one], "generated by me").splitlines()[1:]))
    assert rows == [["section", "x_1", "y"], ["A & B", "1|2", "50%"]]
    assert r"1|2 & \textbf{50\%} \\" in latex("T", [one], "generated by me")
    assert all(
        text.splitlines()[0].strip("<!-%# >").startswith("generated by me")
        for text in (markdown("T", [one], "generated by me"), latex("T", [one], "generated by me"))
    )


def test_table_1_s_means_follow_from_table_11():
    """The paper against itself, and the paired test against scipy's on the paper's numbers."""
    kind = published.table1()
    rows = paper_table("table11", ("task", "method", "run", "accuracy"))
    scores = [
        float(row["accuracy"]) for row in rows if (row["task"], row["method"]) == ("RTE", "BSZO")
    ]
    base = [
        float(row["accuracy"]) for row in rows if (row["task"], row["method"]) == ("RTE", "MeZO")
    ]
    printed = kind.published({"optimizer": "bszo", "task": "rte"})
    assert printed == f"{statistics.fmean(scores):.2f} ({statistics.stdev(scores):.2f}; 5)"
    first, *_ = sections(ARTEFACTS["table11"], Local([]))  # type: ignore[arg-type]
    row = next(row for row in first.rows if row[:2] == ("RTE", "BSZO"))
    assert row[-1] == f"{stats.ttest_rel(scores, base).pvalue:.3f}"


def test_table_11_has_a_section_for_every_local_model(make: Make):
    grid = load("table1", "local")
    point = next(point for point in grid.points if point["fidelity"] == "corrected")
    found = [
        of_local(make, point, rate, name, test=test, status=status)
        for name, test, status in (("m", 0.6, "ok"), ("n", 0.7, "ok"), ("o", 0.0, "out_of_memory"))
        for rate in grid.rates["local", point["optimizer"]]
    ]
    _, *ours = sections(ARTEFACTS["table11"], Local(found))  # type: ignore[arg-type]
    assert [(made.title, made.rows[1][3]) for made in ours] == [
        ("m, fp32 (profile local)", "60.00"),
        ("n, fp32 (profile local)", "70.00"),
        ("o, fp32 (profile local)", "out of memory"),  # with every rate
    ]


def test_table_11_tests_three_pairs_that_ended_well_and_not_two(make: Make):
    """A seed that failed with one of both methods is no pair."""
    grid, found, seeds = load("table1", "local"), [], {"sst2": 4, "rte": 3}
    for point in grid.points:
        mezo, seed = point["optimizer"] == "mezo", int(point["seed"])
        if point["optimizer"] in ("mezo", "bszo") and seed < seeds.get(point["task"], 0):
            status = "diverged" if seed == 2 and not mezo else "ok"
            test = 0.5 if mezo else (0.5, 0.6, 0.0, 0.8)[seed]
            found += [
                of_local(make, point, rate, "m", test=test, status=status)
                for rate in grid.rates["local", point["optimizer"]]
            ]
    _, ours = sections(ARTEFACTS["table11"], Local(found))  # type: ignore[arg-type]
    lines = {row[0]: row[3:] for row in ours.rows if row[1:3] == ("BSZO", "corrected")}
    # differences 0, 10, 30: t = 13.33 / (15.28 / sqrt 3) = 1.512, two degrees of freedom
    assert lines["SST-2"] == ("50.00", "60.00", "diverged", "80.00", "-", "+13.33", "0.270")
    assert lines["RTE"] == ("50.00", "60.00", "diverged", "-", "-", "", "")
