"""Sweeps by Hydra's launchers: each run in a process of its own, a GPU of its own, as a Slurm
job."""

import itertools
import os
import signal
import sys
import time
from functools import partial, partialmethod
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from joblib.externals.loky.process_executor import ProcessPoolExecutor

from experiments.records import store
from experiments.training import gpus
from experiments.training.outcome import EXIT_CODES, RunFailed
from hydra_plugins.processes_launcher import Places
from tests.experiments.runs import FEW, wait_for
from tests.forked import Forked, module, run_module
from tests.killing import FORK, PATIENCE

ROOT = Path(__file__).resolve().parents[2]
SHORT = ("--multirun", "protocol=smoke", "tracker=none", *FEW, "optimizer=mezo")
SWEEP = (*SHORT, "optimizer.lr=3e38,1e-4")


@pytest.fixture(autouse=True)
def where_a_user_types(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sweep itself is a fork; the processes that it starts find the project here."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


# a Slurm job's script and a signal to runs of which one has diverged, below, stand for it
@pytest.mark.exhaustive
@pytest.mark.parametrize("launcher", ["submitit_local", "processes"])
def test_runs_of_a_sweep_in_processes_of_their_own(launcher: str, tmp_path: Path):
    """One diverges, and one ends well: the exit code is the failed run's."""
    arguments = (*SWEEP, f"hydra/launcher={launcher}", f"paths.results={tmp_path}")
    done = run_module("experiments.run", *arguments, folder=tmp_path)
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr and "Warning" not in done.stderr
    assert "diverged: " in done.stderr  # also where a run's own words go to a file
    found = store.load_all([tmp_path / "runs"])
    assert sorted(record["status"] for record in found) == ["diverged", "ok"]


@pytest.mark.parametrize(
    ("number", "to_group"),
    [
        (signal.SIGINT, True),
        pytest.param(signal.SIGTERM, False, marks=pytest.mark.exhaustive),
    ],
)
def test_a_signal_lets_every_process_save(number: int, to_group: bool, tmp_path: Path):
    """Ctrl-C in a terminal, which reaches all and the listener of stderr too, and a kill of the
    sweep alone. Of four runs the first has diverged by then, and the last is never begun."""
    reading, writing = os.pipe()

    def sweep() -> None:
        os.setsid()
        # its runs are forks, too; those that load torch themselves are in the exhaustive case above
        pool: Any = ProcessPoolExecutor
        pool.__init__ = partialmethod(pool.__init__, context=FORK)
        os.dup2(writing, 2)
        os.close(reading)
        try:
            module(
                "experiments.run",
                *SHORT,
                "hydra/launcher=processes",
                "optimizer.lr=3e38,1e-4,1e-5,1e-6",
                "protocol.num_steps=100000",
                "protocol.eval_every=100000",
                f"paths.results={tmp_path}",
            )
        finally:
            sys.stderr = sys.stdout  # a fork's end fails where it cannot flush

    process = Forked(sweep, tmp_path).process
    os.close(writing)
    stderr = os.fdopen(reading)
    # words of several runs may share a line
    begun = itertools.accumulate(line.count("step 0:") for line in stderr)
    assert 3 in begun
    if to_group:
        stderr.close()
        os.killpg(process.pid, number)
    else:
        os.kill(process.pid, number)
    process.join(PATIENCE)
    assert process.exitcode == EXIT_CODES["interrupted"]
    stderr.close()
    ended = store.load_all([tmp_path / "runs"])
    assert sorted(r["status"] for r in ended) == ["diverged"] + ["interrupted"] * 2
    found = [r for r in ended if r["status"] == "interrupted"]
    name = signal.Signals(number).name
    assert [r["reason"] for r in found] == [f"stopped by {name}"] * 2
    for record in found:
        saved = (tmp_path / "checkpoints" / record["signature"]).glob("*")
        assert any(saved) == (record["num_steps"] > 0)
    end = time.monotonic() + PATIENCE
    with pytest.raises(ProcessLookupError):  # nobody of its group is left
        while time.monotonic() < end:
            os.killpg(process.pid, 0)
            time.sleep(0.1)


def test_a_place_whose_process_is_killed_takes_the_next_run(tmp_path: Path):
    """Of two side by side one is killed; the other one and a third end well."""
    os.mkfifo(tmp_path / "held")
    with Places(2) as places:

        def run(seed: int, job: Any, *arguments: Any) -> Any:
            return places.threads.submit(places.run, [f"seed={seed}"], job, *arguments)

        beside = run(1, (tmp_path / "held").read_text)
        killed = run(2, signal.raise_signal, signal.SIGKILL).result()
        third = run(3, os.getpid).result()
        assert not beside.done()
        (tmp_path / "held").write_text("well")
        assert beside.result() == "well" and third > 0
    with pytest.raises(RunFailed) as failed:
        _ = killed.return_value
    assert failed.value.line.startswith("seed=2: its process was killed, ")
    assert failed.value.code == EXIT_CODES["crashed"]


# the places, above, and the exit code of a failed run of a sweep stand for it
@pytest.mark.exhaustive
def test_a_process_that_is_killed_takes_no_other_run_with_it(tmp_path: Path):
    """From the command line: of two runs side by side one is killed."""
    arguments = (
        *SHORT,
        "hydra/launcher=processes",
        "seed=1,2,3",
        "protocol.eval_every=10",
        "protocol.num_steps=400",
        f"paths.results={tmp_path}",
    )
    sweep = Forked(partial(module, "experiments.run", *arguments), tmp_path)
    wait_for(lambda: sweep.printed()[1].count("\nstep 10:") >= 2)
    workers = [
        child
        for child in psutil.Process(sweep.process.pid).children(recursive=True)
        if any("/locks/" in file.path for file in child.open_files())
    ]
    assert len(workers) == 2
    workers[0].kill()
    done = sweep.end()
    assert done.returncode == EXIT_CODES["crashed"], done.stderr
    found = store.load_all([tmp_path / "runs"])
    assert [record["status"] for record in found] == ["ok", "ok"]
    (line,) = [line for line in done.stderr.splitlines() if "was killed" in line]
    assert "seed=" in line and "Traceback" not in done.stderr


FAKE_SBATCH = """#!/bin/sh
cp "$1" "{folder}/submitted.sh"
echo "sbatch: error: invalid partition" >&2
exit 1
"""


def test_a_slurm_job_asks_for_what_the_configuration_says(tmp_path: Path):
    """A stand-in for sbatch keeps the script and refuses it."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("sbatch", "srun"):
        (tools / tool).write_text(FAKE_SBATCH.format(folder=tmp_path))
        (tools / tool).chmod(0o755)
    done = run_module(
        "experiments.run",
        *SWEEP,
        "hydra/launcher=slurm",
        "hydra.launcher.partition=gpu",
        "hydra.launcher.array_parallelism=1",
        f"paths.results={tmp_path}",
        folder=tmp_path,
        before=lambda: os.environ.update(PATH=f"{tools}:{os.environ['PATH']}"),
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "hydra/launcher: sbatch: error: invalid partition\n" in done.stderr
    script = (tmp_path / "submitted.sh").read_text()
    for option in (
        "partition=gpu",
        "array=0-1%1",
        "gpus-per-node=1",
        "time=1440",
        "mem=32GB",
        "signal=USR1@120",
    ):
        assert f"#SBATCH --{option}\n" in script, script


@pytest.mark.parametrize(
    ("launcher", "around", "says"),
    [
        ("slurm", {}, 'Could not detect "srun", are you indeed on a slurm cluster?'),
        (
            "processes",
            {"WORLD_SIZE": "2", "RANK": "0"},
            (
                "torchrun's processes take the runs of a sweep together, one after another; leave"
                " the launcher out"
            ),
        ),
    ],
)
def test_what_a_launcher_cannot_do_is_one_line(
    launcher: str, around: dict[str, str], says: str, tmp_path: Path
):
    done = run_module(
        "experiments.run",
        *SWEEP,
        f"hydra/launcher={launcher}",
        f"paths.results={tmp_path}",
        folder=tmp_path,
        before=lambda: os.environ.update({"PATH": str(tmp_path), **around}),
    )
    assert done.returncode == 1 and not done.stdout
    assert done.stderr == f"hydra/launcher: {says}\n"


def test_each_process_takes_a_gpu_that_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    chosen: list[int] = []
    cuda: Any = SimpleNamespace(
        device_count=lambda: 2,
        current_device=lambda: chosen[-1],
        set_device=chosen.append,
        get_device_properties=lambda number: SimpleNamespace(uuid=f"GPU-{number}"),
    )
    monkeypatch.setattr(gpus.torch, "cuda", cuda)
    kept = []
    for _ in range(3):  # three processes, as far as the locks can see
        monkeypatch.setattr(gpus, "_held", [])
        gpus.claim(tmp_path)
        kept.append(gpus._held)
    assert chosen[:2] == [0, 1]
    assert [len(held) for held in kept] == [1, 1, 0] and chosen[2] in (0, 1)  # the third one shares
    monkeypatch.setattr(gpus, "_held", kept[0])
    gpus.claim(tmp_path)
    assert len(chosen) == 3  # a later run of the same process keeps its GPU
    kept[1][0].release()
    monkeypatch.setattr(gpus, "_held", [])
    assert gpus.claim(tmp_path) == 1
    assert chosen[3:] == [1]
