"""`make status`: every table and figure has a line, and a run that failed is counted, not
missing."""

import re
import subprocess
import sys
from pathlib import Path

from experiments.records import store
from experiments.sweeps.grid import load
from experiments.tables.artefacts import SWEEPS, Counter, Counts, counted, everything, profiles
from experiments.tables.command import Inputs
from tests.tables.test_sweeper import written

ROOT = Path(__file__).resolve().parents[2]


def test_every_table_and_figure_of_the_paper_and_its_script_is_there():
    names = everything()
    assert names[:12] == [f"table{number}" for number in range(1, 13)]
    stems = {path.stem for path in (ROOT / "scripts").rglob("*.py")}
    assert {stem for stem in stems if re.match(r"(table|figure)", stem)} | {"zo_bench"} == set(
        names
    )


def test_the_makefile_s_sweeps_are_these():
    text = (ROOT / "Makefile").read_text()
    there = {
        name.replace("-", "_"): tuple(sweeps.split())
        for name, sweeps in re.findall(r"^SWEEPS_(\S+) := (.+)$", text, re.MULTILINE)
    }
    assert {name: there.get(name, (name,)) for name in SWEEPS} == SWEEPS


def test_a_failure_is_a_result_and_what_waits_is_missing(tmp_path: Path):
    grid = load("table12c", "mini")
    points = [point for point in grid.points if point["fidelity"] == "corrected"]
    for number, point in enumerate(points[:2]):
        for candidate in grid.candidates(point):
            made = written(candidate, tmp_path / "mini", 0.9)["return_value"]
            if number == 0:
                store.write(
                    {**made, "status": "diverged", "reason": "NaN", "test_accuracy": None},
                    tmp_path / "mini",
                )
    counts = counted("table12", "mini", Inputs(tmp_path))
    # official waits for no other choice
    assert counts.statuses["ok"] == 1 and counts.failed == {"diverged": 2}
    assert counts.missing == counts.total - 3 and counts.state == "partial"
    assert Counts(Counter(ok=3, diverged=1), used=True).state == "complete"
    assert Counts(Counter(missing=3)).state == "not run"


def test_the_page_names_what_is_damaged(tmp_path: Path):
    (tmp_path / "mini").mkdir()
    (tmp_path / "mini" / "a.json").write_text("{")
    command = [sys.executable, "-m", "scripts.maintain.status", "--runs", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert {line[0] for line in lines[1:-1]} == set(everything())
    assert sum(line[0] in SWEEPS and line[-1] == "run" for line in lines) == sum(
        len(profiles(name)) for name in SWEEPS
    )
    assert "Left out of profile mini: 1 (a.json: not whole JSON" in done.stdout
