"""`make status`: every table and figure has a line, and a run that failed is counted, not
missing."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

from experiments.records import store
from experiments.sweeps.grid import load
from experiments.tables.artefacts import ARTEFACTS
from experiments.tables.inputs import Inputs
from experiments.tables.state import Counts, counted, profiles
from tests.tables.test_sweeper import written

ROOT = Path(__file__).resolve().parents[2]


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
    counts = counted(ARTEFACTS["table12"], "mini", Inputs(tmp_path))
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
    assert {line[0] for line in lines[1:-1]} == set(ARTEFACTS)
    recorded = {name: artefact for name, artefact in ARTEFACTS.items() if artefact.sweeps}
    assert sum(line[0] in recorded and line[-1] == "run" for line in lines) == sum(
        len(profiles(artefact)) for artefact in recorded.values()
    )
    assert "Left out of profile mini: 1 (a.json: not whole JSON" in done.stdout
