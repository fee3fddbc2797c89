"""Who ran it, where, and with what keys: seeded, and then looked for in everything that a run
leaves."""

import json
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from experiments.records import store
from experiments.records.privacy import anonymous, folder_name, scrub, scrub_all
from experiments.records.provenance import provenance
from experiments.replay import main as replay
from tests.experiments.conftest import Cli
from tests.experiments.runs import make_model, wait_for

ROOT = Path(__file__).resolve().parents[2]
USER, HOST = "quentinzz", "quentins-laptop"
KEYS = {
    "WANDB_API_KEY": "5ecre7" * 7,
    "HF_TOKEN": "hf_notatokenatall",
    "MY_SECRET": "correct-horse-battery",
}
SECRETS = (USER, HOST, *KEYS.values())


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home, a host and an environment full of what must not be seen."""
    home = tmp_path / USER
    home.mkdir()
    for name in ("USER", "LOGNAME", "USERNAME"):
        monkeypatch.setenv(name, USER)
    for name, value in ({"HOME": str(home)} | KEYS).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(platform, "node", lambda: f"{HOST}.example.org")
    return home


def told(content: bytes, home: Path) -> list[str]:
    """Of all secrets those that stand in some bytes."""
    return [secret for secret in (*SECRETS, str(home.parent)) if secret.encode() in content]


def wandb_files(results: Path) -> list[Path]:
    """All but W&B's own debug logs, which say where they lie and which `wandb sync` leaves
    behind."""
    return [
        path for path in (results / "wandb").rglob("*") if path.is_file() and path.suffix != ".log"
    ]


SMALL = (
    "protocol=smoke",
    "protocol.checkpoint_every=1",
    "task.num_train=16",
    "task.num_validation=8",
    "optimizer=mezo",
    "data.num_train=32",
    "data.num_test=8",
    "tracker.log_every=1",
    "device=cpu",
)


@pytest.mark.parametrize("status", ["ok", "crashed"])
def test_a_run_tells_nothing(cli: Cli, home: Path, monkeypatch: pytest.MonkeyPatch, status: str):
    model, results = make_model(home / "models" / "mine"), home / "results"
    kept: list[Path] = []

    def keep(self: Any) -> None:  # what an ok run removes is looked at, too
        kept.extend(path for path in self.folder.rglob("*") if path.is_file())

    def fail(*_: object) -> None:
        raise RuntimeError(f"{USER}@{HOST} could not open {home}/x with {KEYS['HF_TOKEN']}")

    monkeypatch.setattr("experiments.training.checkpoints.weights.Checkpoints.remove", keep)
    if status == "crashed":
        monkeypatch.setattr("experiments.training.runner.Runner._score_selected", fail)
    arguments = [
        *SMALL,
        "checkpoint=trajectory",
        "tracker=wandb",
        f"paths.results={results}",
        "model=local",
        f"model.path={model}",
    ]
    try:
        assert cli(*arguments).code == 0
    except RuntimeError:
        assert status == "crashed"
    (record,) = store.load_all([results / "runs"])
    assert record["status"] == status
    # W&B's own process writes shortly after the run has ended
    wait_for(lambda: any(path.suffix == ".wandb" for path in wandb_files(results)))
    wandb = wandb_files(results)
    folders = (results / "checkpoints", results / "trajectories")
    light = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in light} >= {".bszo", ".safetensors"} and any(
        p.suffix == ".wandb" for p in wandb
    )
    for path in [*(results / "runs").iterdir(), *wandb, *light]:
        assert told(path.read_bytes() + path.name.encode(), home) == [], path
    assert "offline-run" in str(wandb) and not (home / ".netrc").exists()


def test_a_rebuilt_model_tells_nothing(cli: Cli, home: Path):
    model = make_model(home / "models" / "mine")
    arguments = [
        *SMALL,
        "checkpoint=trajectory",
        "tracker=none",
        "model=local",
        f"model.path={model}",
    ]
    assert cli(*arguments, f"paths.results={home / 'r'}").code == 0
    (log,) = home.glob("r/trajectories/*.bszo")
    assert (
        replay([str(log), "--base", str(model), "--out", str(home / "out"), "--device", "cpu"]) == 0
    )
    for path in (home / "out").iterdir():
        assert told(path.read_bytes(), home) == [], path


def test_words_of_the_environment(home: Path):
    assert scrub(f"key={KEYS['WANDB_API_KEY']}") == "key=..."
    assert anonymous(f"by {USER} on {HOST} in ../{USER}/x") == "by ... on ... in ../.../x"
    assert anonymous(f"{USER}s are no user") == f"{USER}s are no user"
    assert folder_name(home) == "folder" and folder_name(home / "x") == "x"
    overrides = [
        f"paths.results={home}",
        f"data.root=../{USER}/data",
        "seed=0",
        f"model.name={KEYS['MY_SECRET']}",
    ]
    text = json.dumps(provenance(overrides, "cpu"))
    assert told(text.encode(), home) == []
    assert "seed=0" in text and "data.root=../.../data" in text


def test_what_is_committed_tells_nothing():
    """Records, tables, documents and notebooks: no absolute path of a home, no key by its look."""
    names = ["results", "docs", "notebooks", "README.md", "conf"]
    listed = subprocess.run(
        ["git", "ls-files", "-z", *names], cwd=ROOT, capture_output=True, check=True
    ).stdout
    files = [
        ROOT / name for name in listed.decode().split("\0") if name and (ROOT / name).is_file()
    ]
    assert len(files) > 20
    private = re.compile(
        r"/(?:home|Users|root|work|tmp)/\w|\b(?:hf_|gh[po]_|wandb_v1_)[A-Za-z0-9]{20,}"
    )
    for path in files:
        text = path.read_text(encoding="utf-8", errors="replace")
        assert not private.search(text), (path, private.search(text))
        host = platform.node()
        assert len(host) < 5 or host not in text, path
    for record in store.load_all(store.PACKED.iterdir()):
        assert scrub_all(record) == record


@pytest.mark.parametrize(
    "words", ["{sentence} Topics: /sport/news ?", "\\\\server\\share {sentence}"]
)
def test_a_prompt_that_a_record_would_cut_is_refused(cli: Cli, words: str, tmp_path: Path):
    """Two prompts that differ in what is cut would have one signature, and one record."""
    outcome = cli(
        "protocol=smoke",
        f"task.causal.prompt='{words}'",
        f"paths.runs={tmp_path}",
        "model=tiny-opt",
    )
    assert outcome.code == 1 and "task.causal.prompt: a record leaves out" in outcome.err
    assert not list(tmp_path.iterdir())


def test_a_prompt_with_a_closing_tag_is_no_path(home: Path):
    assert scrub("<s> {sentence} </s> It was") == "<s> {sentence} </s> It was"
