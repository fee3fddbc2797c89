"""Loading: what works, and one line for each thing that does not."""

import inspect
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers.utils import logging

from bszo.errors import ModelError
from bszo.models import load_model
from bszo.models.locate import locate
from bszo.models.weights import no_pickles
from bszo.tasks import Example
from experiments.records.content import content_id

CONFIGS = sorted((Path(__file__).parents[2] / "conf" / "model").glob("*.yaml"))


def edit_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def fails(path: str | Path, **arguments: Any) -> str:
    """The message of loading `path`, which must be one line."""
    with pytest.raises(ModelError) as caught:
        load_model(str(path), **{"dtype": "float32", **arguments})
    message = str(caught.value)
    assert "\n" not in message and len(message) < 450
    return message


@pytest.fixture
def copy(zoo: dict[str, str], tmp_path: Path) -> Callable[[str], Path]:
    """A model's folder to spoil."""

    def make(family: str) -> Path:
        return Path(shutil.copytree(zoo[family], tmp_path / family))

    return make


@pytest.mark.parametrize(
    ("family", "style"),
    [
        ("opt", "causal"),
        ("llama", "causal"),
        ("mistral", "causal"),
        ("roberta", "masked"),
        ("bert", "masked"),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_kind_dtype_and_mode(zoo: dict[str, str], family: str, style: str, dtype: Any) -> None:
    model = load_model(zoo[family], dtype=dtype)
    assert (model.style, model.name, model.limit) == (
        style,
        family,
        64,
    )  # roberta: 66 embeddings, 2 of them unused
    assert {p.dtype for p in model.module.parameters()} == {getattr(torch, dtype)}
    assert not model.module.training
    assert model.device == torch.device("cpu")
    assert load_model(zoo[family], dtype=dtype, max_length=10, name="mine").limit == 10


@pytest.mark.parametrize("family", ["opt", "roberta"])
def test_a_text_of_any_length_fits(zoo: dict[str, str], family: str) -> None:
    model = load_model(zoo[family], dtype="float32")
    prompt = "the man was tired " * 100 + ("" if family == "opt" else "<mask>")
    encoded = model.encode([Example("0", prompt, (" great", " terrible"), 0)])
    assert encoded[0].truncated
    assert model.loss(model.collate(encoded)).isfinite()


def test_padding_without_a_padding_token(zoo: dict[str, str]) -> None:
    model = load_model(zoo["llama"], dtype="float32")
    assert model.tokenizer.pad_token_id is None
    assert model.pad_id == model.tokenizer.eos_token_id
    model.tokenizer.eos_token = None
    assert (
        type(model)(model.module, model.tokenizer, style="causal", max_length=9, name="x").pad_id
        == 0
    )


def test_several_files_load_as_one(copy: Callable[[str], Path], zoo: dict[str, str]) -> None:
    folder = copy("opt")
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    files = {"a.safetensors": names[: len(names) // 2], "b.safetensors": names[len(names) // 2 :]}
    for file, part in files.items():
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors").unlink()
    index = {
        "metadata": {},
        "weight_map": {name: file for file, part in files.items() for name in part},
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    ours, whole = (load_model(str(path), dtype="float32").module for path in (folder, zoo["opt"]))
    for (name, p), (_, q) in zip(ours.named_parameters(), whole.named_parameters(), strict=True):
        assert torch.equal(p, q), name


def test_loading_is_quiet_and_leaves_the_settings(zoo: dict[str, str], capfd: Any) -> None:
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load_model(zoo["opt"], dtype="float32")
    fails(Path(zoo["opt"]).parent / "nowhere")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    assert capfd.readouterr() == ("", "")


def test_no_such_folder_and_no_folder(tmp_path: Path) -> None:
    assert fails(tmp_path / "gone") == f"model.path={tmp_path / 'gone'}: there is no such folder"
    assert "there is no such folder" in fails("./gone")
    assert "there is no such folder" in fails("../models/gone")
    assert "there is no such folder" in fails("~/gone")
    assert "there is no such folder" in fails("")
    (tmp_path / "weights.safetensors").touch()
    assert "is a file" in fails(tmp_path / "weights.safetensors")
    assert "no config.json" in fails(tmp_path)


def test_an_unknown_asset_names_the_known_ones() -> None:
    assert "model.path=asset:huge: not one of this package's" in fails("asset:huge")
    assert "not one of this package's" in fails("asset:../assets")


def test_an_unreachable_hub_names_the_local_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "huggingface_hub.constants.HF_HUB_OFFLINE", True
    )  # fails at once instead of after retries
    message = fails("nobody/no-such-model")
    assert message.startswith(
        "model nobody/no-such-model: no folder of that name, and its config.json"
    )
    assert "model=local model.path=DIR" in message


@pytest.fixture
def on_hub(
    copy: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Path]:
    """Puts a model's files where the hub's cache has those of `me/<family>`, and no hub behind."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))

    def make(family: str) -> Path:
        entry, commit = tmp_path / "hub" / f"models--me--{family}", "0123456789" * 4
        (entry / "refs").mkdir(parents=True)
        (entry / "refs" / "main").write_text(commit)
        (entry / "snapshots").mkdir()
        return copy(family).rename(entry / "snapshots" / commit)

    return make


def test_a_name_on_the_hub_is_the_folder_that_the_cache_has_of_it(
    on_hub: Callable[[str], Path], zoo: dict[str, str]
) -> None:
    on_hub("opt")
    found, expected = load_model("me/opt", dtype="float32"), load_model(zoo["opt"], dtype="float32")
    values = expected.module.state_dict()
    assert all(torch.equal(v, values[name]) for name, v in found.module.state_dict().items())
    config: Any = found.module.config
    assert (found.name, config.name_or_path) == ("opt", "me/opt")


def test_weights_of_the_hub_are_checked_as_those_of_a_folder(on_hub: Callable[[str], Path]) -> None:
    folder = on_hub("opt")
    name = "model.decoder.layers.1.fc1.weight"
    whole = load_file(folder / "model.safetensors")
    edit_tensors(folder, **{name: whole[name].to(torch.float8_e4m3fn)})
    assert fails("me/opt").startswith(f"model me/opt: its weights hold {name} as F8_E4M3")
    edit_tensors(folder, **{name: whole[name]})
    edit_config(folder, num_hidden_layers=1)
    assert "me/opt: its weights hold model.decoder.layers.1." in fails("me/opt")
    edit_config(folder, num_hidden_layers=10**6)
    assert "me/opt: its config.json has num_hidden_layers 1000000" in fails("me/opt")
    edit_config(folder, num_hidden_layers=2)
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "other/model"}')
    assert "me/opt: the folder holds an adapter" in fails("me/opt")
    (folder / "adapter_config.json").unlink()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "me/opt: the folder has pytorch_model.bin only, and a pickle" in fails("me/opt")


def test_pickled_weights_are_refused_by_name(copy: Callable[[str], Path]) -> None:
    folder = copy("opt")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert "pytorch_model.bin only, and a pickle can run code" in fails(folder)
    (folder / "pytorch_model.bin").unlink()
    assert "no weights; *.safetensors is needed" in fails(folder)


def test_missing_and_broken_files_are_named(copy: Callable[[str], Path]) -> None:
    folder = copy("opt")
    tokenizer = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").unlink()
    assert "no tokenizer (none of tokenizer.json" in fails(folder)
    (folder / "tokenizer.json").write_text("{")
    assert "its tokenizer cannot be read" in fails(folder)
    (folder / "tokenizer.json").write_text(tokenizer)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    assert "its weights cannot be read" in fails(folder)
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "config.json").write_text("{ not json")
    assert "its config.json cannot be read" in fails(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "no-such-type"}))
    assert "its config.json cannot be read" in fails(folder)


def test_a_tensor_that_the_file_lacks_is_not_made_up(copy: Callable[[str], Path]) -> None:
    folder = copy("opt")
    edit_config(folder, num_hidden_layers=3)
    assert "its safetensors lack model.decoder.layers.2." in fails(folder)
    edit_config(folder, num_hidden_layers=2, hidden_size=64, word_embed_proj_dim=64)
    assert "its weights cannot be read" in fails(folder)


def test_an_encoder_is_no_masked_language_model(copy: Callable[[str], Path]) -> None:
    folder = copy("roberta")
    edit_config(folder, architectures=["RobertaModel"])
    message = fails(folder)
    assert "['RobertaModel']" in message and "model.kind=masked or model.kind=causal" in message
    assert load_model(str(folder), dtype="float32", kind="masked").style == "masked"
    tensors = {
        k: v
        for k, v in load_file(folder / "model.safetensors").items()
        if not k.startswith("lm_head")
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert "its safetensors lack lm_head." in fails(folder, kind="masked")


def test_arguments_out_of_range_are_named(zoo: dict[str, str]) -> None:
    assert "model.kind=both: must be one of auto, masked, causal" in fails(zoo["opt"], kind="both")
    assert "dtype float64: must be one of float32" in fails(zoo["opt"], dtype="float64")
    assert "device cuda:99: cannot be used here" in fails(zoo["opt"], device="cuda:99")
    assert "device hal: cannot be used here" in fails(zoo["opt"], device="hal")
    assert "model.max_length=1: must be at least 2" in fails(zoo["opt"], max_length=1)
    assert "its weights cannot be read: Unrecognized configuration class" in fails(
        zoo["opt"], kind="masked"
    )


def test_a_masked_model_without_a_mask_token_is_refused(copy: Callable[[str], Path]) -> None:
    folder = copy("roberta")
    file = folder / "tokenizer_config.json"
    file.write_text(
        json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != "mask_token"})
    )
    assert "no mask token" in fails(folder)


def test_a_tokenizer_larger_than_the_embedding_is_refused(copy: Callable[[str], Path]) -> None:
    folder = copy("llama")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    highest = max(tokenizer["model"]["vocab"].values())
    tokenizer["model"]["vocab"]["zz"] = highest + 1
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert f"its tokenizer has {highest + 2} tokens, its embedding {highest + 1}" in fails(folder)


def test_no_code_of_the_folder_runs(copy: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copy("opt")
    edit_config(
        folder,
        model_type="mine",
        auto_map={"AutoConfig": "code.Mine", "AutoModelForCausalLM": "code.Mine"},
    )
    (folder / "code.py").write_text(
        f"from pathlib import Path\nPath({str(tmp_path / 'ran')!r}).touch()\n"
    )
    assert "cannot be read" in fails(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_a_model_config_holds_load_models_arguments(file: Path) -> None:
    config = yaml.safe_load(file.read_text())
    assert config.pop("_target_") == "bszo.models.load_model"
    given_elsewhere = {"dtype", "device"}  # by the precision and the run
    assert set(config) == set(inspect.signature(load_model).parameters) - given_elsewhere
    assert config["name"] == (None if file.stem == "local" else file.stem)


def test_the_model_configs_are_all_there() -> None:
    opts = {f"opt-{size}" for size in ("125m", "1.3b", "2.7b", "6.7b", "13b")}
    tiny = {"tiny-roberta", "tiny-opt", "tiny-mistral"}
    llamas = {"llama-2-7b", "llama-2-13b", "vicuna-7b"}
    assert {file.stem for file in CONFIGS} == opts | tiny | llamas | {
        "roberta-large",
        "mistral-7b",
        "smollm2-135m",
        "local",
    }


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tiny-mistral", "3e45e9c88a1e"),
        ("tiny-opt", "731717dc8914"),
        ("tiny-roberta", "914a39ca3ff0"),
    ],
)
def test_a_shipped_model_keeps_the_name_that_its_records_know_it_by(
    name: str, content: str
) -> None:
    """Every file of the folder counts, its README too: another byte is another signature."""
    folder = locate(f"asset:{name}")
    assert folder is not None and content_id(folder) == f"{name}@{content}"


def edit_tensors(folder: Path, **changes: torch.Tensor) -> None:
    file = folder / "model.safetensors"
    save_file({**load_file(file), **changes}, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    "dtype", ["int32", "bool", "complex64", "float8_e4m3fn", "uint8"], ids=lambda name: name
)
def test_parameters_are_real_numbers_of_16_bits_or_more(
    copy: Callable[[str], Path], dtype: str
) -> None:
    folder = copy("opt")
    name = "model.decoder.layers.1.fc1.weight"
    values = load_file(folder / "model.safetensors")[name]
    edit_tensors(folder, **{name: values.to(getattr(torch, dtype))})
    assert f"its weights hold {name} as " in fails(folder)


def test_integers_beside_the_parameters_may_be_there(copy: Callable[[str], Path]) -> None:
    folder = copy("roberta")
    edit_tensors(folder, **{"roberta.embeddings.position_ids": torch.arange(66)[None]})
    load_model(str(folder), dtype="float32")


def test_a_layer_that_the_configuration_does_not_mention_is_not_dropped(
    copy: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    folder = copy("opt")
    edit_config(folder, num_hidden_layers=1)
    message = fails(folder)
    assert "its weights hold model.decoder.layers.1." in message
    assert "does not mention (num_hidden_layers)" in message
    edit_config(folder, num_hidden_layers=2)
    edit_tensors(folder, **{"value_head.weight": torch.zeros(2)})
    load_model(str(folder), dtype="float32")
    assert "1 tensors of its weights are not used, the first is value_head.weight" in caplog.text


@pytest.mark.parametrize("method", ["fp8", "mxfp4", "gptq"])
def test_quantised_weights_are_refused(copy: Callable[[str], Path], method: str) -> None:
    folder = copy("opt")
    edit_config(folder, quantization_config={"quant_method": method})
    assert f"says that its weights are quantised ({method})" in fails(folder)


def test_another_file_of_weights_is_refused_whatever_its_name(
    copy: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = copy("opt")
    edit_config(folder, transformers_weights="other.safetensors")
    assert "(transformers_weights: 'other.safetensors')" in fails(folder)
    edit_config(folder, transformers_weights=None)
    (folder / ".metadata").touch()
    assert "a distributed checkpoint (.metadata)" in fails(folder)
    with no_pickles("x"), pytest.raises(ModelError, match=r"'y\.bin' would be read as a pickle"):
        torch.load(tmp_path / "y.bin")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"num_hidden_layers": 10**6}, "has num_hidden_layers 1000000, for which its weights"),
        ({"num_hidden_layers": 1e6}, "config.json cannot be read"),
        ({"hidden_size": 10**9}, "has hidden_size 1000000000, for which its weights"),
        ({"dropout": 5}, "has dropout 5; a probability, 0 to 1, is valid"),
        ({"layerdrop": 7}, "has layerdrop 7; a probability, 0 to 1, is valid"),
        ({"pad_token_id": 10**6}, "cannot be read"),
    ],
)
def test_an_absurd_configuration_is_one_line_and_soon(
    copy: Callable[[str], Path], changes: dict[str, Any], says: str
) -> None:
    folder = copy("opt")
    edit_config(folder, **changes)
    started = time.monotonic()
    assert says in fails(folder)
    assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    "changes",
    [{"model": None}, {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b c", 3]}}],
)
def test_a_damaged_tokenizer_is_one_line(
    copy: Callable[[str], Path], changes: dict[str, Any]
) -> None:
    folder = copy("opt")
    file = folder / "tokenizer.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    assert "its tokenizer cannot be read" in fails(folder)


def test_a_token_id_beyond_the_embedding_is_named(copy: Callable[[str], Path]) -> None:
    folder = copy("opt")
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    vocab = tokenizer["model"]["vocab"]
    last = max(vocab, key=vocab.__getitem__)
    vocab[last] = 5000
    file.write_text(json.dumps(tokenizer))
    assert f"its tokenizer gives {last!r} the id 5000, its embedding has rows 0 to" in fails(folder)


def test_a_revision_of_a_model_that_lies_here_is_refused() -> None:
    with pytest.raises(ModelError, match=r"^model.revision=v2: asset:tiny-opt lies here and has"):
        load_model("asset:tiny-opt", dtype="float32", revision="v2")
