"""W&B: offline unless told, never a question, never a name."""

from pathlib import Path

import pytest

from experiments.config.schema import Paths, Tracker
from experiments.training import tracking


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
    monkeypatch.setattr(tracking, "WandbTracker", lambda **arguments: asked.update(arguments))
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
