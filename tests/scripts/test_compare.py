"""scripts/study/compare.py: a table and a figure from records alone."""

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

from experiments.records import store
from experiments.records.signing import signature
from tests.experiments.conftest import some_record  # noqa: F401 - a fixture
from tests.forked import run_module

ROOT = Path(__file__).resolve().parents[2]


def compare(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-X",
        "importtime",
        "-m",
        "scripts.study.compare",
        *map(str, arguments),
    ]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_table_and_figure(tmp_path: Path, some_record: dict[str, Any]):  # noqa: F811
    failed = copy.deepcopy(some_record)
    failed |= {"status": "diverged", "reason": "nan", "test_accuracy": None}
    failed["choices"]["optimizer"] = "mezo"
    failed["config"]["optimizer"]["lr"] = 1e-3
    failed["signature"] = signature(failed["config"])
    for record in (some_record, failed):
        store.write(record, tmp_path / "runs")
    done = compare("--records", tmp_path / "runs")
    assert done.returncode == 0, done.stderr[-500:]
    assert "tiny-roberta on sst2" in done.stdout
    rows = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines() if line.strip()}
    assert rows["bszo"] == ["0", "50.0", "70.0", "60", "1.5", "0", "ok"]
    # no score is not a score of zero
    assert rows["mezo"] == ["0", "50.0", "-", "60", "1.5", "0", "diverged"]
    figure = tmp_path / "figures" / "compare.png"
    assert figure.read_bytes().startswith(b"\x89PNG")
    for heavy in ("torch", "hydra", "transformers"):
        assert f"| {heavy}\n" not in done.stderr  # -X importtime lists every module that was loaded


def test_a_backward_pass_counts_as_two(tmp_path: Path, some_record: dict[str, Any]):  # noqa: F811
    first_order = copy.deepcopy(some_record)
    first_order["choices"]["optimizer"] = "adamw"
    first_order["num_backwards"] = 60
    first_order["config"]["seed"] = 1
    first_order["signature"] = signature(first_order["config"])
    for record in (some_record, first_order):
        store.write(record, tmp_path / "runs")
    lines = compare("--records", tmp_path / "runs").stdout.splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in lines if line.strip()}
    assert rows["adamw"][3:5] == ["60", "180"] and rows["bszo"][3:5] == ["60", "60"]


def test_damaged_record_is_named(tmp_path: Path):
    (tmp_path / "bad.json").write_text("{")
    done = run_module("scripts.study.compare", "--records", str(tmp_path), folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("bad.json: not whole JSON")


def test_no_records_is_said(tmp_path: Path):
    done = run_module("scripts.study.compare", "--records", str(tmp_path), folder=tmp_path)
    assert done.returncode == 1
    assert "no records" in done.stderr.splitlines()[-1]
