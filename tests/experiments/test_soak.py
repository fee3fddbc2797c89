"""The soak at a tiny size, and that it would find what it looks for."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def soak() -> ModuleType:
    spec = importlib.util.spec_from_file_location("soak", ROOT / "scripts" / "soak.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["soak"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_every_method_of_conf_is_soaked(soak: ModuleType):
    names = {path.stem for path in (ROOT / "conf" / "optimizer").iterdir()}
    assert names == set(soak.METHODS)


def test_a_case_is_flat_and_exact(soak: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arguments = ["--steps", "40", "--methods", "bszo", "adamw", "--precisions", "bf16"]
    code = soak.main([*arguments, "--out", str(tmp_path / "x.json")])
    report = json.loads((tmp_path / "x.json").read_text())
    assert list(report["cases"]) == ["bszo bf16"]  # AdamW perturbs nothing
    case = report["cases"]["bszo bf16"]
    assert (case["steps"], case["drift_at_lr_0"], case["files"][0]) == (40, 0.0, case["files"][1])
    assert code == bool(case["problems"])
    assert not [problem for problem in case["problems"] if "resident" not in problem]  # 40 steps are no warm-up
    assert "bszo" in capsys.readouterr().out


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
def test_what_grows_or_drifts_is_said(soak: ModuleType, bytes_, files, tensors, drift, says):
    samples = [soak.Sample(bytes_(i), files(i), tensors(i)) for i in range(20)]
    assert soak.problems(samples, drift) == ([says] if says else [])


def test_a_leak_is_seen(soak: ModuleType):
    before = soak.look().tensors
    leak = [torch.zeros(3) for _ in range(100)]
    assert soak.look().tensors == before + len(leak)


def test_rates_are_stilled_however_deep(soak: ModuleType):
    node = {"lr": 1e-3, "algorithm": {"lr": 1, "betas": [0.9, 0.99]}}
    assert soak.still(node) == {"lr": 0.0, "algorithm": {"lr": 0.0, "betas": [0.9, 0.99]}}
