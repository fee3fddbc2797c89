"""A record says where it comes from and not who ran it where."""

import functools
import getpass
import json
import platform
from pathlib import Path

import pytest
import torch

from bszo.perturb.compiled import loader
from experiments.records.content import ROWS, content_id
from experiments.records.privacy import scrub, scrub_all
from experiments.records.provenance import provenance


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        ("model.path=/home/joe/models/tiny", "model.path=.../tiny"),
        ("data.root=../shared/data", "data.root=../shared/data"),
        ("No such file: '/data/joe/a.jsonl':3", "No such file: '.../a.jsonl':3"),
        ("~/runs/x ~joe/y", ".../x .../y"),
        (r"C:\Users\joe\x.json", ".../x.json"),
        ("/x", ".../x"),
        ("(at /home/joe/x)", "(at .../x)"),
        ("sqrt(mn)/r", "sqrt(mn)/r"),
        ("facebook/opt-1.3b n / 1e6 scale=1/r", "facebook/opt-1.3b n / 1e6 scale=1/r"),
    ],
)
def test_scrub(text: str, scrubbed: str):
    assert scrub(text) == scrubbed
    assert scrub_all({"a": [text, 1, None]}) == {"a": [scrubbed, 1, None]}


def test_provenance_holds_no_name_and_no_path(tmp_path: Path):
    text = json.dumps(provenance(["seed=0", f"paths.results={tmp_path}"], "cpu"))
    assert str(tmp_path.parent) not in text
    assert str(Path.cwd()) not in text
    assert str(Path.home()) + "/" not in text
    for name in (platform.node(), getpass.getuser()):
        assert f'"{name}"' not in text
    assert "python -m experiments.run seed=0 paths.results=..." in text


def test_provenance_names_versions_and_hardware():
    found = provenance([], "cpu")
    assert found["command"] == "python -m experiments.run"
    assert found["versions"]["torch"] == torch.__version__
    assert found["hardware"]["device"] == "cpu"
    assert found["commit"] is None or len(found["commit"]) == 40


@pytest.mark.parametrize(("made", "said"), [(None, "PyTorch"), (object(), "C")])
def test_provenance_says_what_has_made_the_noise(
    made: object, said: str, monkeypatch: pytest.MonkeyPatch
):
    """Of large models alone: nothing else asks for the kernel, or compiles it to say so."""
    library = functools.cache(lambda: made)
    monkeypatch.setattr(loader, "library", library)
    assert provenance([], "cpu")["hardware"]["noise"] is None
    assert library.cache_info().currsize == 0
    library()
    assert provenance([], "cpu")["hardware"]["noise"] == said


def test_content_id_follows_content_not_place(tmp_path: Path):
    for parent in ("a", "b", "c"):
        (tmp_path / parent / "model").mkdir(parents=True)
        (tmp_path / parent / "model" / "weights").write_text("same" if parent != "c" else "Same")
    a, b, c = (content_id(tmp_path / parent / "model") for parent in "abc")
    assert a == b != c
    assert a.startswith("model@")


def test_content_id_sees_a_renamed_file(tmp_path: Path):
    (tmp_path / "x").write_text("1")
    before = content_id(tmp_path)
    (tmp_path / "x").rename(tmp_path / "y")
    assert content_id(tmp_path) != before


@pytest.mark.parametrize("place", [0, 63, 64, 31_000, 63_999])
def test_content_id_sees_every_byte(place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Also of a file that is read in parts: a flipped label, or one vector of a model."""
    monkeypatch.setattr("experiments.records.content._PART_BYTES", 64)
    content = bytearray(64_000)
    (tmp_path / "x").write_bytes(content)
    before = content_id(tmp_path)
    content[place] = 1
    (tmp_path / "x").write_bytes(content)
    assert content_id(tmp_path) != before


def test_content_id_of_rows_sees_no_notes_beside_them(tmp_path: Path):
    (tmp_path / "train.jsonl").write_text('{"text": "x"}\n')
    before = content_id(tmp_path, ROWS)
    (tmp_path / "notes.txt").write_text("mine")
    assert content_id(tmp_path, ROWS) == before != content_id(tmp_path)
