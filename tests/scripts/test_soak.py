"""The soak at a tiny size, and that it would find what it looks for."""

import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from scripts.bench import soak
from tests.killing import FORK

ROOT = Path(__file__).resolve().parents[2]
CLEAN = {"commit": "c", "dirty": False, "versions": {"torch": "1"}, "command": "x"}


def test_every_method_of_conf_is_soaked():
    names = {path.stem for path in (ROOT / "conf" / "optimizer").iterdir()}
    assert names == set(soak.METHODS)


def test_a_case_is_flat_and_exact(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """In a fork, which has loaded everything already."""
    monkeypatch.setattr(
        soak, "ProcessPoolExecutor", lambda jobs, **_: ProcessPoolExecutor(jobs, mp_context=FORK)
    )
    assert soak.soak("adamw", "bf16", 40) is None  # which perturbs nothing
    arguments = ["--steps", "40", "--methods", "bszo", "--precisions", "bf16"]
    code = soak.main([*arguments, "--out", str(tmp_path / "x.json")])
    report = json.loads((tmp_path / "x.json").read_text())
    assert list(report["cases"]) == ["bszo bf16"]
    case = report["cases"]["bszo bf16"]
    assert (case["steps"], case["drift_at_lr_0"], case["files"][0]) == (40, 0.0, case["files"][1])
    assert report["steps"] == 40 and len(report["provenance"]["commit"]) == 40
    assert code == bool(case["problems"])
    # 40 steps are no warm-up
    assert not [problem for problem in case["problems"] if "resident" not in problem]
    assert "bszo" in capsys.readouterr().out


def test_one_step_is_no_soak(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="2"):
        soak.main(["--steps", "1"])
    assert "--steps: at least 2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("bytes_", "files", "tensors", "drift", "says"),
    [
        (lambda i: 100 + min(i, 4), lambda i: 9, lambda i: 50, 0.0, None),
        (lambda i: 100 + i, lambda i: 9, lambda i: 50, 0.0, "resident memory grew by 14.4 %"),
        (lambda i: 100, lambda i: 9 + (i == 19), lambda i: 50, 0.0, "open files grew from 9 to 10"),
        (lambda i: 100, lambda i: 9, lambda i: 50 + i, 0.0, "live tensors grew by 27.8 %"),
        (lambda i: 100, lambda i: 9, lambda i: 50, 1e-9, "at lr 0 a weight moved by 1e-09"),
    ],
)
def test_what_grows_or_drifts_is_said(bytes_, files, tensors, drift, says):
    samples = [soak.Sample(bytes_(i), files(i), tensors(i)) for i in range(20)]
    assert soak.problems(samples, drift) == ([says] if says else [])


@pytest.mark.parametrize(
    ("there", "here", "holds"),
    [
        ({}, {}, True),
        ({"command": "y"}, {}, True),
        ({"commit": "d"}, {}, False),
        ({"commit": None}, {"commit": None}, False),  # no git: nobody knows what code that was
        ({"dirty": True}, {}, False),
        ({}, {"dirty": True}, False),
        ({"versions": {"torch": "2"}}, {}, False),
    ],
)
def test_cases_of_the_same_commit_are_kept(
    tmp_path: Path, there: dict[str, Any], here: dict[str, Any], holds: bool
):
    path, cases = tmp_path / "x.json", {"bszo fp32": {"steps": 3}}
    assert soak.valid_cases(path, {"steps": 3, "provenance": CLEAN}) == {}
    path.write_text(json.dumps({"steps": 3, "provenance": CLEAN | there, "cases": cases}))
    assert soak.valid_cases(path, {"steps": 3, "provenance": CLEAN | here}) == (
        cases if holds else {}
    )
    assert soak.valid_cases(path, {"steps": 4, "provenance": CLEAN}) == {}


def test_what_is_kept_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        soak, "valid_cases", lambda path, facts: {"bszo bf16": {"problems": ["old"]}}
    )
    assert (
        soak.main(["--methods", "bszo", "--precisions", "bf16", "--out", str(tmp_path / "x.json")])
        == 1
    )
    assert not (tmp_path / "x.json").exists()


def test_a_leak_is_seen():
    before = soak.take_sample().tensors
    leak = [torch.zeros(3) for _ in range(100)]
    assert soak.take_sample().tensors == before + len(leak)


def test_rates_are_stilled_however_deep():
    node = {"lr": 1e-3, "algorithm": {"lr": 1, "betas": [0.9, 0.99]}}
    assert soak.without_rates(node) == {"lr": 0.0, "algorithm": {"lr": 0.0, "betas": [0.9, 0.99]}}
