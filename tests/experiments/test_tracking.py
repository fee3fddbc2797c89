"""W&B: offline unless told, never a question, never a name."""

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from experiments.config.schema import Paths, Tracker
from experiments.training import tracking
from tests.killing import PATIENCE

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def no_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.usefixtures("no_login")
def test_logged_in_reads_the_environment_and_netrc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert not tracking.logged_in()
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password x\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert tracking.logged_in()
    (tmp_path / ".netrc").unlink()
    monkeypatch.setenv("WANDB_API_KEY", "x")
    assert tracking.logged_in()


@pytest.mark.usefixtures("no_login")
@pytest.mark.parametrize(
    ("mode", "key", "used"),
    [
        ("auto", None, "offline"),
        ("auto", "k", "online"),
        ("offline", "k", "offline"),
        ("online", None, "online"),
    ],
)
def test_mode(monkeypatch: pytest.MonkeyPatch, mode: str, key: str | None, used: str):
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    asked = {}

    def make(**arguments: Any) -> SimpleNamespace:
        asked.update(arguments)
        return SimpleNamespace(run_id="x")

    monkeypatch.setattr(tracking, "WandbTracker", make)
    settings = Tracker("wandb", mode, "bszo", 10, "never")  # type: ignore[arg-type]
    tracking.make_tracker(settings, Paths("r", "r/runs", "r"), "name", {})
    assert asked["mode"] == used
    assert asked["folder"] == Path("r")


def test_none_keeps_nothing():
    settings = Tracker("none", "offline", "bszo", 10, "never")
    tracker = tracking.make_tracker(settings, Paths("r", "r/runs", "r"), "name", {})
    tracker.log({"loss": 1.0}, 1)
    tracker.finish({}, ok=True)
    assert isinstance(tracker, tracking.NoTracker)


class Failing:
    """W&B that fails from its second call on."""

    run_id = "x"

    def __init__(self) -> None:
        self.calls, self.abandoned = 0, 0

    def log(self, values: Any, step: int) -> None:
        del values, step
        self.calls += 1
        if self.calls > 1:
            raise ConnectionResetError("Connection\nlost")

    def finish(self, summary: Any, ok: bool) -> None:
        del summary, ok
        self.calls += 1

    def abandon(self) -> None:
        self.abandoned += 1


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_tracker_that_fails_is_one_warning_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    failing: Any = Failing()
    tracker = tracking.Failsafe(failing, tmp_path)
    for step in range(5):
        tracker.log({"loss": 1.0}, step)
    tracker.finish({}, ok=True)
    assert (failing.calls, failing.abandoned, tracker.run_id) == (2, 1, "x")
    assert said(caplog) == [
        "tracker=wandb: W&B has failed (Connection lost); the run goes on without it"
    ]


def test_a_full_disk_is_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    """W&B itself says nothing then, and loses the numbers."""
    failing: Any = Failing()
    tracker = tracking.Failsafe(failing, tmp_path)
    tracker.log({"loss": 1.0}, 0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    for step in range(1, 5):
        tracker.log({"loss": 1.0}, step)
    assert (failing.calls, failing.abandoned) == (1, 1)
    (line,) = said(caplog)
    assert "No space left on device" in line and str(tmp_path) in line


KILLING = """
import sys, time
from pathlib import Path
import psutil
from experiments.training.tracking import Failsafe, WandbTracker
folder = Path(sys.argv[1])
wandb = WandbTracker(
    mode="offline", project="x", folder=folder, name="n", config={}, run_id=None
)
tracker = Failsafe(wandb, folder)
tracker.log({"loss": 1.0}, 1)
children = psutil.Process().children(recursive=True)
assert children
for child in children:
    child.kill()
psutil.wait_procs(children)
for step in range(2, 1000):
    tracker.log({"loss": 1.0}, step)
    if tracker.failed:
        break
    time.sleep(0.01)
tracker.finish({"status": "ok"}, ok=True)
print("went on")
"""


# above, a tracker fails in every way that W&B does then
@pytest.mark.exhaustive
def test_w_and_b_s_process_may_be_killed(tmp_path: Path):
    """W&B itself: one line is printed, at the time and at the end of the process."""
    # another test's W&B, of which the environment tells, would serve this process, too
    environment = {name: value for name, value in os.environ.items() if "WANDB" not in name}
    done = subprocess.run(
        [sys.executable, "-c", KILLING, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment | {"HOME": str(tmp_path)},
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stdout) == (0, "went on\n"), done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("tracker=wandb: W&B has failed (")
