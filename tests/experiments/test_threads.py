"""How many threads a run takes, and that its record says so."""

import importlib
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch

import experiments
from experiments.training import build, threads
from experiments.training.threads import LARGE, SHARING, num_threads, physical_cores
from hydra_plugins.processes_launcher import StoppableTask
from tests.experiments.runs import configuration, make_model, run_here


@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of eight physical cores with two threads each, all of them for this process."""
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: 16 if logical else 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.delenv(SHARING, raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)


@pytest.mark.parametrize(
    ("wanted", "size", "runs", "group", "given"),
    [
        ("auto", LARGE - 1, 1, 1, 1),
        ("auto", LARGE, 1, 1, 8),
        ("auto", LARGE, 2, 1, 4),
        ("auto", LARGE, 3, 1, 2),
        ("auto", LARGE, 2, 2, 2),
        ("auto", LARGE, 100, 1, 1),
        (5, LARGE, 2, 1, 5),
        (5, 10, 1, 1, 5),
    ],
)
def test_threads_by_size_and_by_who_shares_the_machine(
    wanted: Any,
    size: int,
    runs: int,
    group: int,
    given: int,
    eight_cores: None,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv(SHARING, str(runs))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(group))
    assert num_threads(wanted, size) == given


def test_a_process_that_is_held_to_few_cores_takes_those(
    eight_cores: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    assert physical_cores() == 3


def test_a_launcher_s_runs_know_how_many_they_are(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(SHARING, raising=False)
    monkeypatch.setattr(
        "hydra_plugins.processes_launcher.listener",
        SimpleNamespace(begin=lambda: None, signal_name=None),
    )
    config: Any = {}
    assert StoppableTask(lambda _: os.environ[SHARING], 3)(config) == "3"
    monkeypatch.delenv(SHARING)


def test_the_record_has_the_number_and_the_signature_has_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The toy counts as large here: on two cores, and with one thread, as `threads=1` gives it."""
    model = make_model(tmp_path / "model")
    monkeypatch.setattr(threads, "LARGE", 1)
    monkeypatch.setattr(threads, "physical_cores", lambda: 2)
    monkeypatch.delenv(SHARING, raising=False)
    short = ("optimizer=mezo", "protocol.num_steps=2", "optimizer.lr=1e-3")
    records = {}
    try:
        for wanted in ("auto", "1"):
            out = configuration(model, tmp_path / wanted, *short, f"threads={wanted}")
            records[wanted] = run_here(out)[0]
    finally:
        torch.set_num_threads(1)
    taken = {
        wanted: record["provenance"]["hardware"]["torch_threads"]
        for wanted, record in records.items()
    }
    assert taken == {"auto": 2, "1": 1}
    assert records["auto"]["signature"] == records["1"]["signature"]
    assert "threads" not in records["auto"]["config"]
    assert build.num_threads is num_threads


@pytest.mark.parametrize(("said", "found"), [(None, "passive"), ("active", "active")])
def test_threads_that_wait_sleep_unless_told_otherwise(
    said: str | None, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if said:
        monkeypatch.setenv("OMP_WAIT_POLICY", said)
    importlib.reload(experiments)
    assert os.environ["OMP_WAIT_POLICY"] == found
