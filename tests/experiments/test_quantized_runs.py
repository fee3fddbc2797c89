"""Runs over a quantised base: the record names it, a stopped run goes on, its log is replayed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bszo.models.quantized import LIBRARIES
from experiments.config.compose import compose
from experiments.records.signing import scientific, signature
from experiments.replay import main as replay
from experiments.training.runner import Runner
from tests.experiments.conftest import Cli
from tests.experiments.runs import numbers
from tests.models.test_quantized import installed

SMALL = (
    "optimizer=mezo",
    "model=tiny-opt",
    "model.quantization=nf4",
    "tuning=lora",
    "data=mini",
    "data.num_train=32",
    "data.num_test=8",
    "task.num_train=16",
    "task.num_validation=8",
    "tracker=none",
    "tracker.progress=never",
    "protocol=smoke",
    "device=cpu",
    "threads=1",
    "checkpoint=trajectory",
)
Runs = Callable[[], list[dict[str, Any]]]


def test_a_run_without_quantisation_keeps_its_signature():
    config = compose(["model=tiny-opt"])
    assert config["model"]["quantization"] == "none"
    assert "quantization" not in scientific(config)["model"]
    assert signature(config) != signature(compose(["model=tiny-opt", "model.quantization=nf4"]))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("tuning=full",), "tuning=full adds nothing that trains; tuning=lora, prefix, prompt,"),
        (("tuning=scales", "model.quantization=none"), "model.quantization=nf4 is valid, and in"),
        (("tuning=zero-shot", "protocol=zero-shot"), "tuning=in-context adds nothing that trains"),
        (
            ("model.quantization=int4",),
            "model.quantization='int4': should be 'none', 'nf4' or 'int8'",
        ),
    ],
)
def test_what_cannot_be_run_is_one_line(
    arguments: tuple[str, ...], says: str, cli: Cli, tmp_path: Path
):
    done = cli(*SMALL, *arguments, f"paths.results={tmp_path}")
    assert done.code == 1 and says in done.err and done.err.count("\n") == 1
    assert not list(tmp_path.rglob("*.json"))


def test_scales_are_refused_to_a_method_that_needs_a_derivative(cli: Cli, tmp_path: Path):
    installed("nf4")
    done = cli(*SMALL, "tuning=scales", "optimizer=adamw", f"paths.results={tmp_path}")
    assert done.code == 1 and "zeroth-order methods need none" in done.err


@pytest.mark.parametrize(
    ("scheme", "kind", "rate", "kept"),
    [
        ("lora", "nf4", "1e-2", "adapter_model.safetensors"),
        pytest.param("scales", "nf4", "1e-4", "scales.safetensors", marks=pytest.mark.exhaustive),
        pytest.param("scales", "int8", "1e-8", "scales.safetensors", marks=pytest.mark.exhaustive),
    ],
)
def test_a_stopped_run_goes_on_and_its_log_is_replayed(
    scheme: str,
    kind: str,
    rate: str,
    kept: str,
    cli: Cli,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    installed(kind)
    more = (f"tuning={scheme}", f"optimizer.lr={rate}", f"model.quantization={kind}")
    small = (*SMALL, *more, *(("optimizer.eps=1e-5",) if kind == "int8" else ()))
    whole, made = tmp_path / "whole", tmp_path / "made"
    assert cli(*small, f"paths.results={whole}", f"checkpoint.weights={made}").code == 0
    (file,) = whole.glob("runs/*.json")
    record = json.loads(file.read_text())
    assert record["config"]["model"]["quantization"] == kind
    assert record["config"]["model"]["path"].startswith("tiny-opt@")
    facts = record["model"]["quantization"]
    assert facts["kind"] == kind and facts["library"].startswith(f"{LIBRARIES[kind]} 0.")

    step, count = Runner._step, 0

    def stopped(self: Runner, indices: list[int]) -> None:
        nonlocal count
        count += 1
        if count == record["num_steps"] // 2:
            raise KeyboardInterrupt
        step(self, indices)

    monkeypatch.setattr(Runner, "_step", stopped)
    parts = tmp_path / "parts"
    assert cli(*small, f"paths.results={parts}").code == 130
    assert cli(*small, f"paths.results={parts}").code == 0
    (other,) = parts.glob("runs/*.json")
    again = json.loads(other.read_text())
    assert again["num_parts"] == 2 and numbers(again) == numbers(record)

    (log,) = whole.glob("trajectories/*.bszo")
    out, best = tmp_path / "replayed", str(record["best_step"])
    capfd.readouterr()
    assert replay([str(log), "--base", "asset:tiny-opt", "--to", best, "--out", str(out)]) == 0
    wanted = load_file(made / record["signature"] / kept)
    found = load_file(out / kept)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in found)
