"""A machine that does not do its part: a full or read-only disk, no home, a clock that goes
back."""

import ctypes
import errno
import itertools
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bszo import files
from experiments.records import store
from tests.experiments.conftest import Cli, some_record  # noqa: F401 (a fixture)
from tests.forked import Forked, module, run_module
from tests.hostile.conftest import MINI, SMALL

ROOT = Path(__file__).resolve().parents[2]


def arguments(model: Path, results: Path) -> list[str]:
    return [*SMALL, *MINI, "model=local", f"model.path={model}", f"paths.results={results}"]


def left(folder: Path) -> list[str]:
    """Names of all files but the empty locks."""
    return sorted(
        path.name for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"
    )


@pytest.mark.parametrize(
    ("limit", "more", "says", "status"),
    [
        (1000, [], "the record cannot be written (File too large)", None),
        (20_000, ["protocol.checkpoint_every=1"], "cannot be written", "crashed"),
    ],
)
def test_a_full_disk(
    tmp_path: Path, model_folder: Path, limit: int, more: list[str], says: str, status: str | None
):
    """A run whose files cannot grow beyond so many bytes, as on a disk with so much room; in a
    fork, which has loaded everything already."""
    done = run_module(
        "experiments.run",
        *arguments(model_folder, tmp_path / "r"),
        *more,
        folder=tmp_path,
        before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert says in done.stderr.strip().splitlines()[-1]
    found = store.load_all([tmp_path / "r" / "runs"])
    assert [record["status"] for record in found] == ([status] if status else [])
    assert len(left(tmp_path / "r")) == len(found)  # no part of a checkpoint, no temporary file


def mount(folder: Path, size: str) -> None:
    """Give this process, and no other, a file system of so many bytes; whoever may not is told by
    exit code 77."""
    os.chdir(ROOT)
    user, group = os.getuid(), os.getgid()
    new_mounts, new_user = 0x00020000, 0x10000000
    if ctypes.CDLL(None, use_errno=True).unshare(new_mounts | new_user):
        sys.exit(77)
    Path("/proc/self/setgroups").write_text("deny")
    for kind, number in (("uid", user), ("gid", group)):
        Path(f"/proc/self/{kind}_map").write_text(f"0 {number} 1")
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    if subprocess.run(command).returncode:
        sys.exit(77)


@pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("mount") is None,
    reason="needs Linux's unshare to make a file system of its own",
)
@pytest.mark.parametrize(
    ("size", "more", "says", "leaves"),
    [
        ("4k", [], "the record cannot be written (No space left on device)", 0),
        # the record of the crash
        ("40k", ["protocol.checkpoint_every=1"], "No space left on device", 1),
    ],
)
def test_a_disk_that_is_full(
    tmp_path: Path, model_folder: Path, size: str, more: list[str], says: str, leaves: int
):
    """The same on a file system that has so many bytes, and what is left on it afterwards."""
    full = tmp_path / "full"
    full.mkdir()

    def run() -> None:
        mount(full, size)
        try:
            module("experiments.run", *arguments(model_folder, full / "r"), *more)
        finally:  # nobody else sees it
            found = [path for path in full.rglob("*") if path.is_file() and path.stat().st_size]
            print(*(path.name for path in found))

    done = Forked(run, tmp_path).end()
    if done.returncode == 77:
        pytest.skip(f"no file system can be made here: {done.stderr}")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert says in done.stderr.strip().splitlines()[-1]
    assert len(done.stdout.split()) == leaves and ".tmp" not in done.stdout


def test_a_disk_that_fills_at_any_sync(
    cli: Cli, tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    """Whatever file is being written then: what is there is whole, and the same command ends well
    later."""
    sync = files._sync

    def full_after(left: int) -> Callable[[Path], None]:
        count = itertools.count()

        def full(path: Path) -> None:
            if next(count) >= left:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            sync(path)

        return full

    for at in (0, 1, 4):  # before the first file has its name, after it, and at a later one
        results = tmp_path / str(at)
        monkeypatch.setattr(files, "_sync", full_after(at))
        done = cli(*arguments(model_folder, results), "protocol.checkpoint_every=2")
        assert done.code == 1 and "No space left on device" in done.err.splitlines()[-1]
        assert not [name for name in left(results) if name.endswith(".tmp")]
        if (results / "runs").is_dir():
            store.load_all([results / "runs"])
        monkeypatch.setattr(files, "_sync", sync)
        assert cli(*arguments(model_folder, results), "protocol.checkpoint_every=2").code == 0
        (record,) = store.load_all([results / "runs"])
        assert record["status"] == "ok"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO])
def test_a_record_is_never_half_written(
    tmp_path: Path,
    some_record: dict[str, Any],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    code: int,
):
    path = store.write(some_record, tmp_path)
    before, write_text = path.read_bytes(), Path.write_text

    def half(self: Path, text: str, **options: Any) -> int:
        write_text(self, text[: len(text) // 2], **options)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(OSError):
        store.write(some_record | {"num_steps": 61}, tmp_path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "fresh", [False, pytest.param(True, marks=pytest.mark.exhaustive)], ids=["fork", "process"]
)
def test_no_home(tmp_path: Path, model_folder: Path, fresh: bool):
    """W&B and transformers look for one; this home cannot be made, and holds no key. A fork has
    imported transformers already, a process of its own imports it without a home."""
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("XDG_", "HF_", "WANDB_"))
    } | {"HOME": "/proc/none"}

    def leave_home() -> None:
        os.environ.clear()
        os.environ.update(environment)

    command = ["experiments.run", *arguments(model_folder, tmp_path / "r"), "tracker=wandb"]
    if fresh:
        words = [sys.executable, "-m", *command]
        done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env=environment)
    else:
        done = run_module(*command, folder=tmp_path, before=leave_home)
    assert done.returncode == 0, done.stderr
    assert [record["status"] for record in store.load_all([tmp_path / "r" / "runs"])] == ["ok"]
    assert list((tmp_path / "r" / "wandb").glob("offline-run-*"))


def test_home_is_not_set(
    cli: Cli, tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("HOME", "USER", "LOGNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    assert cli(*arguments(model_folder, tmp_path / "r")).code == 0


def test_a_clock_that_goes_back(
    cli: Cli, tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    now, calls = time.time, itertools.count(1)
    monkeypatch.setattr(time, "time", lambda: now() - 3600 * next(calls))
    begin = time.perf_counter()
    assert cli(*arguments(model_folder, tmp_path / "r")).code == 0
    spent = time.perf_counter() - begin
    (record,) = store.load_all([tmp_path / "r" / "runs"])
    seconds = [record["train_seconds"], record["evaluation_seconds"], record["step_ms"] / 1000]
    assert 0 <= record["provenance"]["seconds"] <= spent
    seconds += [point["train_seconds"] for point in record["curve"]]
    assert all(0 <= value <= spent for value in seconds)
    assert [point["train_seconds"] for point in record["curve"]] == sorted(seconds[3:])
