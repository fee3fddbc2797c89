"""GGUF files become fp32 folders of the cache, which are named by content and made once."""

import hashlib
import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from bszo.errors import ModelError
from bszo.models import load_model
from bszo.models.cache import cache_root
from bszo.models.gguf import convert_gguf, described, is_sound, origin_of
from bszo.tasks import Example
from tests.models.gguf_files import F32, HEADS, HIDDEN, Q8_0, write_gguf


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


def rotated(matrix: np.ndarray) -> np.ndarray:
    """Rows of a query or key matrix as transformers has them: of each head the even rows of the
    file come first, then the odd ones."""
    heads = matrix.reshape(HEADS, -1, 2, HIDDEN)
    return np.concatenate([heads[:, :, 0], heads[:, :, 1]], axis=1).reshape(matrix.shape)


def test_a_path_may_be_a_file_and_its_tensors_are_the_model_s(cache: Path, tmp_path: Path):
    """Those in fp32 to the bit; of those in Q8_0 each block of 32 is round(w / d) * d, d the fp16
    next to max |w| / 127."""
    file = tmp_path / "tiny.gguf"
    before = write_gguf(file, kinds=(F32, Q8_0))
    model = load_model(str(file), dtype="float32")
    weights = {name: value.detach().numpy() for name, value in model.module.named_parameters()}
    assert np.array_equal(weights["model.embed_tokens.weight"], before["token_embd.weight"])
    first = weights["model.layers.0.self_attn.q_proj.weight"]
    assert np.array_equal(first, rotated(before["blk.0.attn_q.weight"]))
    blocks = before["blk.1.ffn_up.weight"].astype(np.float64).reshape(-1, 32)
    exact = np.abs(blocks).max(axis=1, keepdims=True) / 127
    step = exact.astype(np.float16).astype(np.float64)
    wanted = (np.round(blocks / exact) * step).reshape(-1, HIDDEN)
    second = weights["model.layers.1.mlp.up_proj.weight"]
    np.testing.assert_allclose(second, wanted, rtol=1e-6, atol=0)
    assert 0 < np.abs(second - before["blk.1.ffn_up.weight"]).max() < 2e-3
    assert model.name == "tiny.gguf"
    origin = origin_of(file)
    assert origin is not None and origin["tensors"] == {"F32": 13, "Q8_0": 7}
    assert origin["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert load_model(str(file), dtype="bfloat16").module.dtype == torch.bfloat16


def factors(most: float = 32.0) -> np.ndarray:
    """By which Llama 3.2 divides rotary frequencies: 1 for waves of at most 8192 / 4 positions,
    `most` from 8192 on, between them 1 / (s + (1 - s) / most) with s = (8192 / wave - 1) / 3."""
    wave = 2 * np.pi * 10000.0 ** (np.arange(0, HIDDEN // HEADS, 2) / (HIDDEN // HEADS))
    share = ((8192 / wave - 1) / 3).clip(0, 1)
    return (1 / (share + (1 - share) / most)).astype(np.float32)


def test_the_rotary_frequencies_of_llama_3_are_kept(cache: Path, tmp_path: Path):
    file, divided = tmp_path / "llama3.gguf", factors()
    assert divided[0] == 1 and 1 < divided[-2] < divided[-1] == 32
    write_gguf(file, more=lambda writer: writer.add_tensor("rope_freqs.weight", divided))
    module: Any = load_model(str(file), dtype="float32").module
    width = HIDDEN // HEADS
    wanted = 10000.0 ** -(np.arange(0, width, 2) / width) / divided
    np.testing.assert_allclose(module.model.rotary_emb.inv_freq, wanted, rtol=1e-6)


# the frequency before the last is neither kept nor divided by the most
OFF = np.array([1] * 6 + [1.01, 1], np.float32)
PARTIAL: dict[str, tuple[dict[str, Any], str]] = {
    "a tensor missing": (
        {"left_out": "blk.0.ffn_up.weight"},
        r"lacks model\.layers\.0\.mlp\.up_proj\.weight",
    ),
    "a tensor too many": (
        {"more": lambda file: file.add_tensor("blk.0.attn_q.bias", np.ones(32, np.float32))},
        "hold 18720 numbers, and transformers makes a LlamaForCausalLM of 18688",
    ),
    "other frequencies": (
        {"more": lambda file: file.add_tensor("rope_freqs.weight", 2 * factors())},
        r"rope_freqs\.weight scales rotary frequencies otherwise",
    ),
    "one frequency off by 1 %": (
        {"more": lambda file: file.add_tensor("rope_freqs.weight", factors() * OFF)},
        r"rope_freqs\.weight scales rotary frequencies otherwise",
    ),
    "yarn": (
        {"more": lambda file: file.add_rope_scaling_type(gguf.RopeScalingType.YARN)},
        r"llama\.rope\.scaling\.type is 'yarn'",
    ),
    "longer by four": (
        {"more": lambda file: file.add_rope_scaling_factor(4.0)},
        r"llama\.rope\.scaling\.factor is 4\.0",
    ),
    "one of three": (
        {"more": lambda file: file.add_uint16("split.count", 3)},
        r"is one of 3 parts \(split\.count\)",
    ),
}


@pytest.mark.parametrize("name", PARTIAL)
def test_a_file_that_would_be_used_in_part_is_refused(name: str, cache: Path, tmp_path: Path):
    written, says = PARTIAL[name]
    write_gguf(tmp_path / "tiny.gguf", **written)
    with pytest.raises(ModelError, match=says) as error:
        load_model(str(tmp_path / "tiny.gguf"), dtype="float32")
    assert "\n" not in str(error.value)
    assert not [part for part in cache.rglob("*") if part.is_file()]


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


def test_what_an_earlier_version_converted_is_made_again(cache: Path, file: Path):
    folder = convert_gguf(file)
    origin = json.loads((folder / "origin.json").read_text())
    assert origin.pop("splitting")
    (folder / "origin.json").write_text(json.dumps(origin))
    assert not is_sound(folder)
    with pytest.raises(ModelError, match="an earlier version of bszo converted it"):
        origin_of(folder)
    convert_gguf(file)
    assert is_sound(folder) and origin_of(folder)


@pytest.mark.parametrize(
    ("pre", "pieces", "says"),
    [
        # the two blanks are one piece only where digits are split off first
        ("smollm", ["a", "ĠĠ", "1", "2", "Ġb"], "each digit, else as GPT-2"),
        ("gpt-2", ["a", "Ġ", "Ġ12", "Ġb"], "as GPT-2"),
        ("llama-bpe", ["a", "Ġ", "Ġ", "12", "Ġb"], "as transformers has it"),
        ("no-such-rules", ["a", "Ġ", "Ġ12", "Ġb"], "as GPT-2, for want of the rules called"),
    ],
)
def test_text_is_split_as_the_file_names_it(
    pre: str,
    pieces: list[str],
    says: str,
    cache: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
):
    """The pieces are those that llama.cpp's rules of that name give, worked out by hand."""
    file = tmp_path / "named.gguf"
    write_gguf(file, pre=pre)
    folder = convert_gguf(file)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    backend: Any = tokenizer.backend_tokenizer
    assert [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str("a  12 b")] == pieces
    origin = origin_of(folder)
    assert origin is not None and origin["splitting"].startswith(says)
    told = [record.message for record in caplog.records if "not known here" in record.message]
    assert told == [
        "named.gguf: it splits text by rules called 'no-such-rules', which are not known here: it"
        " is split as GPT-2's, and tokens may differ from those that the model was trained on"
    ] * (pre == "no-such-rules")


@pytest.mark.parametrize(
    ("pre", "add_bos", "ids"),
    [("llama-bpe", None, [1]), ("llama-bpe", False, []), ("gpt-2", None, []), ("gpt-2", True, [1])],
)
def test_a_vocabulary_without_an_unknown_token_gets_none(
    pre: str, add_bos: bool | None, ids: list[int], cache: Path, tmp_path: Path
):
    """As Llama 3's, whose rules also put a token in front where the file does not say."""
    file = tmp_path / "llama3.gguf"
    more = (
        (lambda _: None) if add_bos is None else (lambda writer: writer.add_add_bos_token(add_bos))
    )
    write_gguf(file, pre=pre, unknown=False, more=more)
    model = load_model(str(file), dtype="float32")
    assert model.tokenizer.unk_token is None and len(model.tokenizer) == 261
    (encoded,) = model.encode([Example("0", "a", (" great",), 0)])
    after = model.tokenizer.convert_tokens_to_ids(["a", "Ġgr", "e", "a"])
    assert list(encoded.rows[0]) == [*ids, *after]  # the last token is only asked for
    assert model.tokenizer.backend_tokenizer.model.ignore_merges == (pre == "llama-bpe")
    origin = origin_of(convert_gguf(file))
    assert origin is not None
    assert origin["splitting"].endswith("; <s> stands in front") == (
        pre == "llama-bpe" and add_bos is None
    )


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("cache:tiny@0123456789ab", r"is not in the cache.*python -m experiments\.fetch tiny"),
        ("cache:tiny", "cache:NAME@HEX is valid"),
        ("tiny.gguf", r"model\.path=tiny\.gguf: there is no such file"),
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
