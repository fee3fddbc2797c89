"""Model folders that would run code, name other files, or cannot be what they say."""

import ast
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
CODE = "from pathlib import Path\nPath({witness!r}).touch()\nraise RuntimeError\n"


class Bomb:
    """Its pickle touches a file when it is read."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> Any:
        return Path.touch, (self.witness,)


@pytest.fixture
def folder(model_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_folder, tmp_path / "model"))


def edit(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def only_pickled(folder: Path, witness: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(witness)))


def pickled_as_safetensors(folder: Path, witness: Path) -> None:
    (folder / "model.safetensors").write_bytes(pickle.dumps(Bomb(witness)))


def indexed_pickle(folder: Path, witness: Path) -> None:
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    (folder / "x.bin").write_bytes(pickle.dumps(Bomb(witness)))
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "x.bin"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def named_pickle(folder: Path, witness: Path) -> None:
    """Beside sound safetensors, an index of another name that the configuration asks for."""
    (folder / "x.bin").write_bytes(pickle.dumps(Bomb(witness)))
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "x.bin"}}
    (folder / "other.safetensors.index.json").write_text(json.dumps(index))
    edit(folder, transformers_weights="other.safetensors.index.json")


def index_of_elsewhere(folder: Path, witness: Path) -> None:
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "../../secret.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def own_code(folder: Path, witness: Path) -> None:
    (folder / "evil.py").write_text(CODE.format(witness=str(witness)))
    edit(
        folder,
        model_type="evil",
        auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"},
    )


def adapter(folder: Path, witness: Path) -> None:
    (folder / "adapter_config.json").write_text(
        '{"base_model_name_or_path": "../elsewhere", "peft_type": "LORA"}'
    )


SPOILT: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "only pickled": (only_pickled, "a pickle can run code"),
    "a pickle by another name": (pickled_as_safetensors, "weights cannot be read"),
    "a pickle in the index": (indexed_pickle, "names 'x.bin'"),
    "a pickle in an index of another name": (named_pickle, "transformers_weights"),
    "another folder's file": (index_of_elsewhere, "names '../../secret.safetensors'"),
    "own code": (own_code, "model"),
    "an adapter": (adapter, "an adapter"),
    "a size of text": (lambda folder, _: edit(folder, hidden_size="x"), "cannot be read"),
    "a negative size": (lambda folder, _: edit(folder, hidden_size=-3), "cannot be read"),
    "no heads": (lambda folder, _: edit(folder, num_attention_heads=0), "cannot be read"),
    "a huge size": (lambda folder, _: edit(folder, vocab_size=10**15), "have no room"),
    "no architecture": (
        lambda folder, _: edit(folder, architectures=None),
        "name no masked or causal",
    ),
    "not JSON": (
        lambda folder, _: (folder / "config.json").write_bytes(b"\0\xff{"),
        "cannot be read",
    ),
    "a list": (lambda folder, _: (folder / "config.json").write_text("[1]"), "cannot be read"),
    "half the weights": (lambda folder, _: _cut(folder / "model.safetensors"), "cannot be read"),
    "no tokenizer": (
        lambda folder, _: (folder / "tokenizer.json").write_text("{}"),
        "tokenizer cannot be read",
    ),
}


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("name", SPOILT)
def test_a_hostile_folder_is_refused(
    refused: Callable[..., str], folder: Path, tmp_path: Path, name: str
):
    spoil, says = SPOILT[name]
    spoil(folder, tmp_path / "witness")
    assert says in refused("model=local", f"model.path={folder}")
    assert not (tmp_path / "witness").exists()


def test_a_pickle_beside_the_safetensors_is_left_alone(cli: Any, folder: Path, tmp_path: Path):
    from tests.hostile.conftest import MINI, SMALL

    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "witness")))
    arguments = ["model=local", f"model.path={folder}", f"paths.results={tmp_path / 'results'}"]
    assert cli(*SMALL, *MINI, *arguments).code == 0
    assert not (tmp_path / "witness").exists()


def test_no_line_of_ours_trusts_remote_code_or_reads_a_pickle():
    for folder in ("bszo", "experiments", "scripts"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                    assert isinstance(node.value, ast.Constant) and node.value.value is False, path
                if isinstance(node, ast.Attribute):
                    assert ast.unparse(node) not in (
                        "torch.load",
                        "pickle.load",
                        "pickle.loads",
                    ), path
