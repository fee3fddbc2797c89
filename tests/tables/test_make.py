"""make's dependencies: a table is rendered when something that it shows has changed, and only
then."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.records import signing, store
from experiments.sweeps.grid import load
from experiments.tables.artefacts import ARTEFACTS
from tests.tables.conftest import Make

ROOT = Path(__file__).resolve().parents[2]
IGNORED = shutil.ignore_patterns("__pycache__", "*.pyc")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """As much of the project as rendering needs, with one record of table 1."""
    for folder in ("conf", "experiments", "scripts", "results/paper"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=IGNORED)
    for file in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / file, tmp_path / file)
    (tmp_path / "venv").mkdir()
    for installed in (".render", ".ready"):
        (tmp_path / "venv" / installed).touch()
    return tmp_path


def made(project: Path, *targets: str) -> str:
    command = ["make", f"RUN={sys.executable}", "VENV=venv", *targets]
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))
    }
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def later(file: Path) -> None:
    """As if written two seconds from now, however long rendering took."""
    now = time.time()
    os.utime(file, (now + 2, now + 2))


def test_touching_a_record_renders_its_tables_alone(project: Path, make_record: Path):
    assert "table1.md" in made(project, "table1", "table6")
    again = made(project, "table1", "table6")
    assert again.count("Nothing to be done") == 2
    later(make_record)
    after = made(project, "table1", "table6")
    assert "results/tables/table1.md" in after and "Nothing to be done for 'table6'" in after


@pytest.mark.parametrize(
    ("file", "target", "command"),
    [
        ("experiments/tables/real/study.py", "table_real", "experiments.render table_real"),
        ("experiments/tables/walk/beside.py", "table_walk", "experiments.render table_walk"),
        ("experiments/tables/findings/text.py", "results/README.md", "maintain.results_readme"),
        ("scripts/figures/curves.py", "figure_real", "experiments.render figure_real"),
    ],
)
def test_touching_code_renders_what_it_makes(project: Path, file: str, target: str, command: str):
    """`make -n` where everything has been rendered, without the minutes that this takes."""
    rendered = [project / "outputs" / "made" / name for name in ARTEFACTS]
    rendered[0].parent.mkdir(parents=True)
    for path in (*rendered, project / "results" / "README.md"):
        path.touch()
    assert command not in made(project, "-n", target)
    later(project / file)
    assert command in made(project, "-n", target)


def test_make_knows_what_the_registry_says(project: Path):
    """`run-` starts an artefact's sweeps or its measurement, `plan-` plans the same."""
    recorded = [artefact for artefact in ARTEFACTS.values() if artefact.sweeps]
    others = [artefact for artefact in ARTEFACTS.values() if not artefact.sweeps]
    started = made(project, "-n", "PROFILE=paper", *(f"run-{name}" for name in ARTEFACTS))
    planned = made(project, "-n", *(f"plan-{name}" for name in ARTEFACTS))
    sweeps = [" ".join(artefact.sweeps) for artefact in recorded]
    assert re.findall(r"for sweep in (.*?);", started) == sweeps
    assert re.findall(r"experiments\.plan (.*?) --profile", planned) == sweeps
    for artefact in others:
        commands = artefact.commands.get("paper", artefact.commands.get("", ()))
        for command in commands:
            assert f"-m {command.removesuffix(' $(ARGS)')}" in started
        assert f'"{artefact.name}: {artefact.plan}"' in planned
    picked = ARTEFACTS["figure_gain"].picked
    assert started.count(" ".join(f"{key}={value}" for key, value in picked.items())) == 1
    assert "scripts.bench.step --out" in made(project, "-n", "run-table4")


def test_a_dash_is_an_underline(project: Path):
    text = made(project, "-n", "run-zo-bench", "plan-zo-bench", "zo-bench")
    for part in ("sweep in zo_bench;", "experiments.plan zo_bench ", "experiments.render zo_bench"):
        assert part in text


def test_help_installs_nothing(project: Path):
    (project / "venv" / ".render").unlink()
    assert "tables" in made(project, "help") and not (project / "venv" / ".render").exists()


@pytest.fixture
def make_record(project: Path, make: Make) -> Path:
    """The record of one run that chooses a learning rate of table 1's mini profile."""
    grid = load("table1", "mini")
    point = next(
        point
        for point in grid.points
        if point["optimizer"] == "mezo" and point["fidelity"] == "corrected"
    )
    record = make({**point, "precision": "fp32"}, 1e-3)
    record["config"]["protocol"] = {}
    record["config"]["fidelity"] = {}
    record["config"]["optimizer"] = {"lr": 1e-3}
    record["signature"] = signing.signature(record["config"])
    return store.write(record, project / "outputs" / "runs" / "mini")
