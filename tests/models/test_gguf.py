"""GGUF files become fp32 folders of the cache, which are named by content and made once."""

from pathlib import Path

import numpy as np
import pytest

from bszo.errors import ModelError
from bszo.models import load_model
from bszo.models.cache import cache_root
from bszo.models.gguf import convert_gguf, described, is_sound, origin_of
from tests.models.gguf_files import write_gguf


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BSZO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_gguf(tmp_path / "tiny.Q4_1.gguf")
    return tmp_path / "tiny.Q4_1.gguf"


def by_hand(matrix: np.ndarray) -> np.ndarray:
    """Q4_1 written down anew: of 32 numbers in a row the least and a fifteenth of the range, both
    in fp16; each number is the least plus 0 to 15 such steps."""
    blocks = matrix.reshape(-1, 32)
    least, most = blocks.min(axis=1, keepdims=True), blocks.max(axis=1, keepdims=True)
    step = (most - least) / np.float32(15)
    quants = np.trunc((blocks - least) * (1 / step) + np.float32(0.5)).clip(0, 15)
    low, width = (part.astype(np.float16).astype(np.float32) for part in (least, step))
    return (quants * width + low).reshape(matrix.shape)


def test_the_weights_are_the_numbers_that_the_quants_stand_for(cache: Path, tmp_path: Path):
    file = tmp_path / "tiny.Q4_1.gguf"
    before = write_gguf(file)
    folder = convert_gguf(file)
    model = load_model(str(folder), dtype="float32")
    weights = dict(model.module.named_parameters())
    for ours, theirs in {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.layers.0.mlp.down_proj.weight": "blk.0.ffn_down.weight",
        "model.layers.0.self_attn.v_proj.weight": "blk.0.attn_v.weight",
    }.items():
        held = weights[ours].detach().numpy()
        np.testing.assert_allclose(held, by_hand(before[theirs]), rtol=0, atol=1e-7)
        assert 0 < np.abs(held - before[theirs]).max() < 0.05  # it was quantised
    assert model.style == "causal"
    ids = model.tokenizer(" great")["input_ids"]
    assert model.tokenizer.decode(ids) == " great" and len(ids) < len(" great")  # it merges


def test_the_folder_is_named_by_content_and_made_once(cache: Path, file: Path):
    folder = convert_gguf(file, "tiny")
    origin = origin_of(folder)
    assert origin is not None and folder == cache / "models" / origin["sha256"][:12] / "tiny"
    assert origin["weights"] == "Q4_1 dequantised" and origin["file"] == "tiny.Q4_1.gguf"
    assert origin["tensors"] == {"F32": 3, "Q4_1": 8}
    assert load_model(f"cache:tiny@{origin['sha256'][:12]}", dtype="bfloat16").name
    before = {part: part.stat().st_mtime_ns for part in folder.iterdir()}
    assert convert_gguf(file, "tiny") == folder
    assert {part: part.stat().st_mtime_ns for part in folder.iterdir()} == before
    weights = folder / "model.safetensors"
    sound = weights.read_bytes()
    weights.write_bytes(sound[:-8] + b"damaged!")
    assert not is_sound(folder)
    convert_gguf(file, "tiny")
    assert weights.read_bytes() == sound and is_sound(folder)
    assert "transformers" not in (folder / "config.json").read_text()  # no version in the content


def test_no_origin_and_a_damaged_one(cache: Path, file: Path, tmp_path: Path):
    assert origin_of(tmp_path) is None
    folder = convert_gguf(file)
    (folder / "origin.json").write_text("{}")
    with pytest.raises(ModelError, match=r"its origin\.json cannot be read"):
        origin_of(folder)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("cache:tiny@0123456789ab", r"is not in the cache.*python -m experiments\.fetch tiny"),
        ("cache:tiny", "cache:NAME@HEX is valid"),
        ("cache:../x@0123456789ab", "cache:NAME@HEX is valid"),
        ("cache:..@0123456789ab", "cache:NAME@HEX is valid"),
    ],
)
def test_what_the_cache_does_not_hold(path: str, says: str, cache: Path):
    with pytest.raises(ModelError, match=says) as error:
        load_model(path, dtype="float32")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["missing", "text", "truncated", "architecture"])
def test_files_that_cannot_be_converted_leave_nothing(kind: str, cache: Path, file: Path):
    if kind == "missing":
        file.unlink()
    elif kind == "text":
        file.write_text("no model")
    elif kind == "truncated":
        file.write_bytes(file.read_bytes()[:-100])
    else:
        write_gguf(file, architecture="no-such-one")
    with pytest.raises(ModelError, match="tiny") as error:
        convert_gguf(file)
    assert "\n" not in str(error.value)
    assert not [part for part in cache.rglob("*") if part.is_file()]


def test_without_the_package_the_extra_is_named(
    cache: Path, file: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install 'bszo\[gguf\]'"):
        convert_gguf(file)


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("BSZO_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "bszo" / "models"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_root() == tmp_path / "home" / ".cache" / "bszo" / "models"


def test_the_type_most_tensors_have_is_said():
    assert described({"F32": 61, "Q4_1": 210, "Q8_0": 1}) == "Q4_1 dequantised"
    assert described({"F32": 61, "Q8_0": 2}) == "Q8_0 dequantised"
    assert described({"F32": 3, "F16": 8}) == "F16"
