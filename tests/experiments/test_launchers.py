"""Sweeps by Hydra's launchers: each run in a process of its own, a GPU of its own, as a Slurm
job."""

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from experiments.records import store
from experiments.training import gpus
from experiments.training.outcome import EXIT_CODES
from tests.killing import PATIENCE

ROOT = Path(__file__).resolve().parents[2]
SWEEP = ("--multirun", "protocol=smoke", "tracker=none", "optimizer=mezo", "optimizer.lr=3e38,1e-4")


def test_runs_of_a_sweep_in_processes_of_their_own(tmp_path: Path):
    """Two launchers, each a run that diverges and one that ends well: the exit code is the failed
    run's."""
    started = {
        launcher: subprocess.Popen(
            [
                sys.executable,
                "-m",
                "experiments.run",
                *SWEEP,
                f"hydra/launcher={launcher}",
                *more,
                f"paths.results={tmp_path / launcher}",
            ],
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        for launcher, more in (("processes", ["hydra.launcher.n_jobs=2"]), ("submitit_local", []))
    }
    for launcher, process in started.items():
        said = process.communicate(timeout=PATIENCE)[1]
        assert process.returncode == 3, said
        assert "Traceback" not in said and "Warning" not in said
        assert "diverged: " in said  # also where a run's own words go to a file
        found = store.load_all([tmp_path / launcher / "runs"])
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
    sweep alone."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "experiments.run",
            *SWEEP[:3],
            "optimizer=mezo",
            "seed=1,2,3,4",
            "protocol.num_steps=100000",
            "protocol.eval_every=100000",
            "hydra/launcher=processes",
            f"paths.results={tmp_path}",
        ],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    assert process.stderr is not None
    begun = itertools.islice((line for line in process.stderr if line.startswith("step 0:")), 2)
    assert len(list(begun)) == 2
    if to_group:
        process.stderr.close()
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    assert process.wait(PATIENCE) == EXIT_CODES["interrupted"]
    found = store.load_all([tmp_path / "runs"])
    name = signal.Signals(number).name
    assert [(r["status"], r["reason"]) for r in found] == [
        ("interrupted", f"stopped by {name}")
    ] * 2
    for record in found:
        saved = (tmp_path / "checkpoints" / record["signature"]).glob("*")
        assert any(saved) == (record["num_steps"] > 0)
    end = time.monotonic() + PATIENCE
    with pytest.raises(ProcessLookupError):  # nobody of its group is left
        while time.monotonic() < end:
            os.killpg(process.pid, 0)
            time.sleep(0.1)


def test_a_process_that_is_killed_takes_no_other_run_with_it(tmp_path: Path):
    """Of two runs side by side one is killed; the other one and a third end well."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "experiments.run",
            *SWEEP[:3],
            "optimizer=mezo",
            "seed=1,2,3",
            "protocol.eval_every=10",
            "protocol.num_steps=400",
            "hydra/launcher=processes",
            f"paths.results={tmp_path}",
        ],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert process.stderr is not None
    begun = itertools.islice((line for line in process.stderr if line.startswith("step 10:")), 2)
    assert len(list(begun)) == 2
    workers = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if any("/locks/" in file.path for file in child.open_files())
    ]
    assert len(workers) == 2
    workers[0].kill()
    said = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == EXIT_CODES["crashed"], said
    found = store.load_all([tmp_path / "runs"])
    assert [record["status"] for record in found] == ["ok", "ok"]
    (line,) = [line for line in said.splitlines() if "was killed" in line]
    assert "seed=" in line and "Traceback" not in said


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
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "experiments.run",
            *SWEEP,
            "hydra/launcher=slurm",
            "hydra.launcher.partition=gpu",
            "hydra.launcher.array_parallelism=1",
            f"paths.results={tmp_path}",
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"},
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
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "experiments.run",
            *SWEEP,
            f"hydra/launcher={launcher}",
            f"paths.results={tmp_path}",
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PATH": str(tmp_path)} | around,
        timeout=PATIENCE,
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
