"""Many processes, one results folder: every record whole, none lost, a signature run once."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.records import store
from experiments.records.locks import Busy, claimed
from experiments.records.pack import pack
from experiments.records.store import PACKED
from experiments.tables.artefacts import ARTEFACTS
from experiments.tables.inputs import Inputs
from experiments.training.session import Session
from scripts.maintain import status
from tests.experiments.conftest import Cli
from tests.experiments.runs import Processes, configuration, make_model, run_here, wait_for
from tests.killing import FORK, PATIENCE

ROOT = Path(__file__).resolve().parents[2]
NUM_PROCESSES, NUM_CELLS = 8, 24
# Takes every cell of a sweep that nobody else runs or has finished, and says which; loads no torch.
WORKER = """
import os, sys, time
from pathlib import Path
from experiments.records import record, signing, store
from experiments.records.locks import Busy, claimed

results, count = Path(sys.argv[1]), int(sys.argv[2])
plain = {str: "x", int: 0, dict: {}, list: [], type(None): None}
groups = {key: {} for _, key in record.INSIDE if key not in ("seed", "started")}
print("ready", flush=True)
while not (results / "go").exists():
    time.sleep(0.001)
for _ in range(3):
    for cell in range(count):
        config = groups | {"seed": cell}
        signature = signing.signature(config)
        try:
            with claimed(signature, results / "locks"):
                if store.find(signature, results / "runs"):
                    continue
                time.sleep(0.02)
                filled = {key: plain[types[0]] for key, types in record.FIELDS.items()}
                filled |= {"schema_version": 1, "signature": signature, "config": config}
                filled |= {"status": "diverged", "reason": "r" * 5000}
                filled |= {"choices": dict.fromkeys(("task", "model", "optimizer"), "x")}
                filled |= {"provenance": {"started": ""}}
                store.write(filled | {"num_steps": os.getpid()}, results / "runs")
                print(signature, flush=True)
        except Busy:
            pass
assert "torch" not in sys.modules
"""
HOLDER = """
import sys, time
from pathlib import Path
from experiments.records.locks import claimed
with claimed("s", Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def start(program: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def test_eight_processes_of_one_sweep(tmp_path: Path):
    workers = [start(WORKER, tmp_path, NUM_CELLS) for _ in range(NUM_PROCESSES)]
    for worker in workers:
        assert worker.stdout is not None and worker.stdout.readline() == "ready\n"
    (tmp_path / "go").touch()
    # whoever looks sees whole records at any time
    while any(worker.poll() is None for worker in workers):
        if (tmp_path / "runs").is_dir():
            store.load_all([tmp_path / "runs"])
        time.sleep(0.002)
    said = [line for worker in workers for line in worker.communicate()[0].split()]
    assert [worker.returncode for worker in workers] == [0] * NUM_PROCESSES
    assert len(said) == len(set(said)) == NUM_CELLS  # each once
    found = store.load_all([tmp_path / "runs"])
    assert sorted(record["signature"] for record in found) == sorted(said)
    assert len({record["num_steps"] for record in found}) > 1  # several processes took part
    assert all(len(record["reason"]) == 5000 for record in found)


def test_status_while_runs_end(tmp_path: Path):
    """`make status` counts whole runs at any time: never fewer than before, and nothing left
    out."""
    ended, problems = store.gather(PACKED / "mini")
    ended = [record for record in ended if record["choices"]["model"] == "tiny-roberta"]
    ended, few = ended[:120], tmp_path / "all" / "records"
    for record in ended:
        store.write(record, few / "mini")
    seen = FORK.Event()

    def end() -> None:
        for i, record in enumerate(ended):
            if i == len(ended) // 2:
                seen.wait(PATIENCE)
            store.write(record, tmp_path / "runs" / "mini")
            if i % 50 == 49:  # while others look, what has ended is packed
                pack(tmp_path / "runs" / "mini")

    process, counts = FORK.Process(target=end), [0]
    process.start()
    while process.is_alive():
        inputs = Inputs(tmp_path / "records")
        counts.append(int(status.line_of_runs(ARTEFACTS["table1"], "mini", inputs)[3]))
        assert inputs.problems("mini") == []
        if counts[-1]:
            seen.set()
    assert process.exitcode == 0
    assert counts == sorted(counts) and len(set(counts)) > 1
    last = [
        status.line_of_runs(ARTEFACTS["table1"], "mini", Inputs(folder))
        for folder in (tmp_path / "records", few)
    ]
    assert last[0] == last[1] and problems == []


def test_a_dead_owner_holds_nothing(tmp_path: Path):
    holder = start(HOLDER, tmp_path)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with pytest.raises(Busy, match="another process"), claimed("s", tmp_path):
        pass
    with claimed("other", tmp_path):
        pass
    holder.kill()
    holder.wait()
    with claimed("s", tmp_path):
        pass


def test_two_runs_of_one_signature(tmp_path: Path, cli: Cli):
    """The second goes away with one line; when the first is killed, a third goes on where it
    was."""
    model = make_model(tmp_path / "model")
    arguments = ["optimizer=mezo", "protocol.num_steps=30"]
    config = configuration(model, tmp_path / "results", *arguments)
    processes = Processes(tmp_path)
    first = processes.start(config, slow_seconds=0.1, until="train")
    with pytest.raises(Busy) as busy:
        Session(config, {}, []).run()
    assert str(busy.value).count("\n") == 0 and "another process is running" in str(busy.value)
    wait_for(lambda: list(tmp_path.glob("results/checkpoints/*/step-*.safetensors")))
    os.kill(first.pid, signal.SIGKILL)
    first.join(PATIENCE)
    record, _ = run_here(config)
    assert (record["status"], record["num_parts"]) == ("ok", 2)
    assert len(store.load_all([tmp_path / "results" / "runs"])) == 1


@pytest.mark.parametrize(("more", "code"), [([], 5), (["--multirun", "seed=0,1"], 0)])
def test_the_command_skips_what_another_process_runs(
    tmp_path: Path, cli: Cli, more: list[str], code: int
):
    model = make_model(tmp_path / "model")
    small = [
        "task.num_train=16",
        "task.num_validation=8",
        "data.num_train=32",
        "data.num_test=8",
        "optimizer=mezo",
    ]
    arguments = [
        "model=local",
        f"model.path={model}",
        f"paths.results={tmp_path / 'r'}",
        "tracker=none",
        "protocol=smoke",
        *small,
    ]
    assert cli(*arguments).code == 0
    (path,) = (tmp_path / "r" / "runs").iterdir()
    signature = store.load(path)["signature"]
    path.unlink()
    with claimed(signature, tmp_path / "r" / "locks"):
        done = cli(*more, *arguments)
    assert done.code == code
    assert done.err.count("another process is running this configuration; skipped") == 1
    left = (
        store.load_all([tmp_path / "r" / "runs"])
        if list((tmp_path / "r" / "runs").iterdir())
        else []
    )
    assert [record["config"]["seed"] for record in left] == ([1] if more else [])
