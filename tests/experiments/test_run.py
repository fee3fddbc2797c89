"""`python -m experiments.run` from the command line to the record."""

import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.records import signing, store
from experiments.training.build import Parts, build
from tests.experiments.conftest import Cli
from tests.experiments.runs import FEW, wait_for
from tests.forked import Forked, module, run_module

ROOT = Path(__file__).resolve().parents[2]
Runs = Callable[[], list[dict[str, Any]]]
# what two runs of one configuration may differ in: clocks, memory, and when they ran
MEASURED = ("train_seconds", "evaluation_seconds", "step_ms", "peak_memory_bytes", "provenance")


def numbers(record: dict[str, Any]) -> dict[str, Any]:
    plain = {key: value for key, value in record.items() if key not in MEASURED}
    plain["curve"] = [
        {k: v for k, v in point.items() if k not in MEASURED} for point in record["curve"]
    ]
    return plain


# each takes the way of another case in the test below
ALIKE = [
    ("optimizer=null", "optimizer=null: no such choice; choose one of adamw"),
    (
        "+optimizer.window=8",
        "optimizer.window: no such key; choose .*; optimizer=mezo-adam-history takes it",
    ),
    ("protocol.num_stepz=3", "protocol.num_stepz: no such key; .*did you mean num_steps"),
    ("optimizer.lr=nan", "optimizer.lr=nan: must be a finite number"),
    ("directions.blocks=rows", "directions.blocks='rows': should be 'none', 'transformer'"),
    ("+task.causal.promt=x", "task.causal.promt: no such key; .*did you mean prompt"),
    ("protocol.num_steps=abc", "protocol.num_steps='abc': should be a valid integer"),
]


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        (
            "optimizer=bsz",
            "optimizer=bsz: no such choice; choose one of adamw, .*did you mean bszo",
        ),
        ("task=3", "task=3: no such choice; choose one of boolq"),
        ("seed=${nope}", "seed: Interpolation key 'nope' not found"),
        ("optimiser=bszo", "optimiser: no such key; .*did you mean optimizer"),
        ("optimizer.lrr=1", "optimizer.lrr: no such key; .*did you mean lr"),
        ("+optimizer.lrr=1", "optimizer.lrr: no such key; .*did you mean lr"),
        (
            "optimizer.window=8",
            "optimizer.window: no such key; choose .*; optimizer=mezo-adam-history takes it",
        ),
        ("optimizer.k=2.5", "optimizer.k=2.5: should be a valid integer"),
        ("fidelity.lozo_scale=half", "fidelity.lozo_scale='half': should be '1/r' or 'none'"),
        ("optimizer._target_=os.system", "optimizer._target_='os.system': only bszo"),
        ("tuning=adapter", "tuning=adapter: no such choice; choose one of full"),
        ("model=local", "model.path: needs a value"),
        (
            "model=/some/where",
            "model=/some/where: no such choice; a folder: model=local model.path=/some/where",
        ),
        ("task=[sst2,rte]", "a run has one choice of task; task=sst2,rte with --multirun is a run"),
        ("seed=0,1", "'seed=0,1': several values are a sweep, which needs --multirun"),
        ("-protocol=smoke", "-protocol=smoke: an override has no dash: protocol=smoke"),
        (
            "model.device_map=foo",
            "model.device_map=foo: must be one of auto, balanced, .*, or {module: device}",
        ),
        ("seed", "seed: not of the form key=value"),
        ("optimizer.k=0", "optimizer.k=0: at least 1"),
        ("directions.sparsity=1.0", r"directions.sparsity=1.0: .* in \[0, 1\)"),
        ("protocol.batch_size=0", "protocol.batch_size=0: must be at least 1"),
        ("protocol.batch_size=5000", "5000.*1000"),
        (
            "protocol.max_eval_examples=1",
            "the first 1 rows of validation have one label only; null, or [2-9] and more, is valid",
        ),
        ("task.num_train=9999", "sst2.*9999"),
        ("data=local", "data.root is not set"),
        *(pytest.param(*case, marks=pytest.mark.exhaustive) for case in ALIKE),
    ],
)
def test_a_wrong_argument_is_one_line(
    cli: Cli, runs: Runs, tmp_path: Path, argument: str, says: str
):
    done = cli(f"paths.results={tmp_path}", "protocol=smoke", "tracker=none", argument)
    assert done.code == 1
    lines = done.err.strip().splitlines()
    assert len(lines) == 1, done.err
    assert re.search(says, lines[0])
    assert runs() == []


def test_a_wrong_argument_in_a_process_of_its_own(tmp_path: Path):
    command = [
        sys.executable,
        "-m",
        "experiments.run",
        "optimizer=bsz",
        f"paths.results={tmp_path}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    full = partial(os.environ.update, HYDRA_FULL_ERROR="1")
    shown = run_module(*command[2:], folder=tmp_path, before=full)
    assert shown.returncode == 1
    assert "Traceback" in shown.stderr


@pytest.mark.parametrize(
    ("model", "task", "optimizer"), [("tiny-roberta", "sst2", "bszo"), ("tiny-opt", "copa", "lozo")]
)
def test_two_tasks_from_end_to_end(
    cli: Cli, runs: Runs, tmp_path: Path, model: str, task: str, optimizer: str
):
    arguments = [
        f"model={model}",
        f"task={task}",
        f"optimizer={optimizer}",
        "protocol=smoke",
        "tracker=none",
        *FEW,
    ]
    done = cli(f"paths.results={tmp_path}", *arguments)
    assert done.code == 0, done.err
    (record,) = runs()
    assert record["status"] == "ok" and record["reason"] is None
    assert (record["num_steps"], [point["step"] for point in record["curve"]]) == (4, [0, 2, 4])
    assert record["num_forwards"] == 4 * {"bszo": 3, "lozo": 2}[optimizer]
    assert 0 <= record["zero_shot_accuracy"] <= 1 and 0 <= record["test_accuracy"] <= 1
    assert record["peak_memory_bytes"] > 0 and record["peak_memory_kind"] == "resident_set"
    # protocol.max_eval_examples, which is signed
    assert record["data"]["num_examples"]["test"] == 16
    assert record["signature"] == signing.signature(record["config"])
    assert record["choices"]["task"] == task and record["choices"]["model"] == model
    assert set(record["config"]).isdisjoint(signing.NOT_SCIENTIFIC)
    assert str(tmp_path) not in json.dumps(record)
    # the same command again: nothing runs
    (path,) = (tmp_path / "runs").iterdir()
    written = path.stat().st_mtime_ns
    again = cli(f"paths.results={tmp_path}", *arguments)
    assert again.code == 0 and "already run" in again.err
    assert path.stat().st_mtime_ns == written
    # the same configuration elsewhere: the same numbers
    cli(f"paths.results={tmp_path / 'other'}", *arguments)
    (other,) = store.load_all([tmp_path / "other" / "runs"])
    assert numbers(other) == numbers(record)


def test_a_sweep_goes_on_past_a_failed_run(cli: Cli, runs: Runs, tmp_path: Path):
    done = cli(
        "--multirun",
        f"paths.results={tmp_path}",
        "protocol=smoke",
        "tracker=none",
        "optimizer=mezo",
        "optimizer.lr=3e38,1e-4",
        *FEW,
    )
    assert done.code == 3
    status = [(record["config"]["optimizer"]["lr"], record["status"]) for record in runs()]
    assert sorted(status) == [(1e-4, "ok"), (3e38, "diverged")]
    failed = next(record for record in runs() if record["status"] == "diverged")
    assert failed["test_accuracy"] is None
    assert failed["reason"]
    assert "NaN" not in json.dumps(failed)


def test_wandb_writes_offline_below_results(
    cli: Cli, runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    done = cli(
        f"paths.results={tmp_path}", "protocol=smoke", "tracker=wandb", "tracker.log_every=1", *FEW
    )
    assert done.code == 0, done.err
    assert len(runs()) == 1
    (log,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    keys = (
        b"validation_accuracy",
        b"sigma_e",
        b"gain",
        b"step_ms",
        b"num_forwards",
        b"peak_memory_bytes",
    )
    # W&B's own process writes the file, shortly after the run has ended
    wait_for(lambda: all(key in log.read_bytes() for key in keys))
    content = log.read_bytes()
    assert [key for key in keys if key not in content] == []
    assert str(tmp_path).encode() not in content
    host = platform.node().encode()
    # a shorter name stands in any binary file by chance
    assert len(host) < 5 or host not in content


def test_an_earlier_record_that_is_damaged_is_said(cli: Cli, tmp_path: Path):
    arguments = (
        f"paths.results={tmp_path}",
        "protocol=smoke",
        "tracker=none",
        "optimizer=mezo",
        *FEW,
    )
    assert cli(*arguments).code == 0
    (path,) = (tmp_path / "runs").iterdir()
    path.write_text(path.read_text()[:100])
    done = cli(*arguments)
    assert done.code == 1
    assert f"{path.name}: not whole JSON" in done.err


def test_interrupt_writes_a_record(tmp_path: Path):
    arguments = (
        "protocol=mini",
        "protocol.num_steps=100000",
        "optimizer=mezo",
        "tracker=none",
        *FEW,
        f"paths.results={tmp_path}",
    )
    run = Forked(partial(module, "experiments.run", *arguments), tmp_path)
    wait_for(lambda: "step 0:" in run.printed()[1])
    time.sleep(0.5)
    os.kill(run.process.pid, signal.SIGINT)
    done = run.end()
    assert done.returncode == 130
    assert "Traceback" not in done.stderr
    (record,) = store.load_all([tmp_path / "runs"])
    assert record["status"] == "interrupted"
    assert "SIGINT" in record["reason"]
    assert record["test_accuracy"] is None
    assert record["zero_shot_accuracy"] is not None


def test_a_run_that_is_stopped_again_while_it_loads_keeps_its_numbers(
    cli: Cli, runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    arguments = (f"paths.results={tmp_path}", "protocol=smoke", "tracker=none", *FEW)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt("SIGTERM")

    with monkeypatch.context() as within:
        within.setattr("experiments.training.runner.Runner._score_selected", stop)
        assert cli(*arguments).code == 130
    (stopped,) = runs()
    assert stopped["num_steps"] == 4 and len(stopped["curve"]) == 3
    with monkeypatch.context() as within:
        within.setattr("experiments.training.session.build", stop)
        assert cli(*arguments).code == 130
    (again,) = runs()
    kept = ("num_steps", "num_forwards", "curve", "zero_shot_accuracy", "validation_accuracy")
    assert all(again[key] == stopped[key] for key in kept) and again["status"] == "interrupted"
    assert cli(*arguments).code == 0
    (ended,) = runs()
    assert ended["status"] == "ok" and ended["curve"] == stopped["curve"]


def test_a_commit_during_a_run_is_not_the_run_s(
    cli: Cli, runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Its code was loaded before; so it was before a file was changed."""
    answers = {"rev-parse": "a" * 40, "status": ""}
    monkeypatch.setattr("experiments.records.provenance._git", lambda *asked: answers[asked[0]])

    def committed(config: Any) -> Parts:
        answers.update({"rev-parse": "b" * 40, "status": " M bszo/half.py"})
        return build(config)

    monkeypatch.setattr("experiments.training.session.build", committed)
    assert cli(f"paths.results={tmp_path}", "protocol=smoke", "tracker=none", *FEW).code == 0
    (record,) = runs()
    said = record["provenance"]
    assert (said["commit"], said["dirty"], answers["status"] != "") == ("a" * 40, False, True)


def test_a_crash_has_a_record_and_a_traceback(
    cli: Cli, runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def broken(*_: object) -> float:
        raise ZeroDivisionError(f"in {tmp_path}/secret.txt")

    monkeypatch.setattr("experiments.training.runner.Runner._step", broken)
    with pytest.raises(ZeroDivisionError):
        cli(f"paths.results={tmp_path}", "protocol=smoke", "tracker=none", *FEW)
    (record,) = runs()
    assert record["status"] == "crashed"
    assert record["reason"] == "ZeroDivisionError: in .../secret.txt"


@pytest.mark.parametrize(
    "message", ["CUDA out of memory", "DefaultCPUAllocator: can't allocate memory"]
)
def test_out_of_memory_is_a_status(
    cli: Cli, runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message: str
):
    def full(*_: object) -> float:
        raise (torch.OutOfMemoryError if "CUDA" in message else RuntimeError)(message)

    monkeypatch.setattr("experiments.training.runner.Runner._step", full)
    done = cli(f"paths.results={tmp_path}", "protocol=smoke", "tracker=none", *FEW)
    assert done.code == 4
    (record,) = runs()
    assert (record["status"], record["reason"]) == ("out_of_memory", message)


SMALL = FEW[2:]
MODELS = ("roberta-mini", "opt-mini", "stories260k-llama", "babyllama-char-1m")


TASKS = ("sst2", "rte", "cb", "copa", "wic", "wsc", "trec", "boolq")


@pytest.mark.parametrize(
    ("task", "model"),
    [
        # one model of either kind; tests/tasks/test_real_rows.py holds every row of every task, and
        # tests/models/test_scores.py the scores of every model
        pytest.param(task, model, marks=pytest.mark.exhaustive if number >= 2 else ())
        for number, (task, model) in enumerate(zip(TASKS, MODELS * 2, strict=True))
    ],
)
def test_real_models_on_real_rows(
    cli: Cli, runs: Runs, tmp_path: Path, shared: Path, task: str, model: str
):
    done = cli(
        f"paths.results={tmp_path}",
        "tracker=none",
        "protocol=smoke",
        "protocol.num_steps=2",
        "optimizer=mezo",
        "model=local",
        f"model.path={shared / 'models' / model}",
        "data=local",
        f"data.root={shared / 'data'}",
        f"task={task}",
        "protocol.max_eval_examples=8",
        *([] if task == "sst2" else SMALL),
    )
    assert done.code == 0, done.err
    (record,) = runs()
    assert record["status"] == "ok"
    assert record["choices"]["model"] == model
    assert record["data"]["num_examples"]["train"] == (1000 if task == "sst2" else 32)
    assert record["config"]["model"]["path"].startswith(f"{model}@")
    assert str(shared) not in json.dumps(record)
