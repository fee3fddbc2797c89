"""Weight files of a model's folder: checks that only safetensors are opened, and that they hold
what the configuration says."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import nn

from bszo.errors import ModelError, one_line

FLOATS = ("F64", "F32", "F16", "BF16")
# sizes of a configuration, each of which at least one tensor has along one of its sides
SIZES = ("vocab_size", "hidden_size", "intermediate_size")
DROPS = re.compile(r"drop(out)?(_prob|_rate)?$")  # keys of a configuration that are probabilities


class Stored(NamedTuple):
    """A tensor as its file's header describes it."""

    dtype: str
    shape: tuple[int, ...]


def stored_tensors(folder: Path, path: str) -> dict[str, Stored]:
    """Every tensor of the files that will be opened, by name; only headers are read.

    Args:
        folder: with model.safetensors, or an index of several files beside it
            (`bszo.models.locate.locate` has looked at it), or files that belong together.

    Raises:
        ModelError: a file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.is_file():
        files = [whole]
    elif index.is_file():
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        files = [folder / name for name in sorted(set(names))]
    else:
        files = sorted(folder.glob("*.safetensors"))
    found: dict[str, Stored] = {}
    for file in files:
        try:
            with safe_open(file, "pt") as opened:
                for name in opened.keys():  # noqa: SIM118 (it is no dict)
                    part = opened.get_slice(name)
                    found[name] = Stored(part.get_dtype(), tuple(part.get_shape()))
        except (OSError, SafetensorError) as error:
            raise ModelError(
                f"model {path}: its weights cannot be read: {file.name}: {one_line(error)}"
            ) from error
    return found


def check_config(config: Any, stored: Mapping[str, Stored], path: str) -> None:
    """Refuse a configuration that leads to other files, or whose sizes the weights cannot have,
    before anything is built.

    Raises:
        ModelError: it names a weights file of its own, says that weights are quantised, or gives a
            size that no tensor has room for or a probability that is none.
    """
    if named := getattr(config, "transformers_weights", None):
        raise ModelError(
            f"model {path}: its config.json names a weights file of its own (transformers_weights:"
            f" {named!r:.80}); model.safetensors or model.safetensors.index.json without that key"
            " is needed"
        )
    if (quantised := getattr(config, "quantization_config", None)) is not None:
        method = quantised.get("quant_method") if isinstance(quantised, Mapping) else None
        raise ModelError(
            f"model {path}: its config.json says that its weights are quantised"
            f" ({method or type(quantised).__name__}); a perturbation needs weights of 16 or 32"
            " bits, saved without quantization_config"
        )
    text = config.get_text_config()
    for name, value in text.to_dict().items():  # layerdrop, attention_dropout, resid_pdrop, ...
        if DROPS.search(name) and isinstance(value, (int, float)) and not 0 <= value <= 1:
            raise ModelError(
                f"model {path}: its config.json has {name} {value!r:.40}; a probability, 0 to 1, is"
                " valid"
            )
    most = sum(_numel(tensor.shape) for tensor in stored.values())
    bounds = {"num_hidden_layers": len(stored)} | dict.fromkeys(SIZES, most)
    for name, bound in bounds.items():
        value = getattr(text, name, None)
        if isinstance(value, int) and value > bound:
            raise ModelError(
                f"model {path}: its config.json has {name} {value}, for which its weights"
                f" ({len(stored)} tensors, {most} numbers) have no room"
            )


def check_stored(module: nn.Module, stored: Mapping[str, Stored], path: str) -> None:
    """Refuse tensors that stand for parameters and are no real numbers of 16 bits or more.

    Integers that a model keeps beside its parameters (positions, masks) may be there.

    Raises:
        ModelError: an integer, bool, complex or 8-bit tensor stands for a parameter.
    """
    buffers = {name for name, _ in module.named_buffers()}
    parameters = {name for name, _ in module.named_parameters()}
    for name, tensor in stored.items():
        if tensor.dtype in FLOATS or _same_end(name, buffers):
            continue
        if _same_end(name, parameters) or name.rsplit(".", 1)[-1] in ("weight", "bias"):
            raise ModelError(
                f"model {path}: its weights hold {name} as {tensor.dtype}; parameters are read as"
                f" {', '.join(FLOATS)} alone"
            )


def check_unused(module: nn.Module, unused: list[str], path: str) -> None:
    """Refuse a file with more layers than the configuration says: they would be dropped.

    Raises:
        ModelError: a tensor that was not used belongs to a layer like one of the model's.
    """
    known = {_without_numbers(name) for name, _ in module.named_parameters()}
    if left := [name for name in unused if _same_end(_without_numbers(name), known)]:
        raise ModelError(
            f"model {path}: its weights hold {left[0]} (the first of {len(left)} such tensors),"
            " a layer that its config.json does not mention (num_hidden_layers)"
        )


@contextmanager
def no_pickles(path: str) -> Iterator[None]:
    """While active, `torch.load` raises ModelError.

    So `transformers` cannot open a pickle, which could run code, whatever files it finds.
    """

    def refuse(file: Any, *_: Any, **__: Any) -> None:
        raise ModelError(
            f"model {path}: {Path(str(file)).name!r:.80} would be read as a pickle, which can run"
            " code; *.safetensors is needed"
        )

    with patch.object(torch, "load", refuse):
        yield


def _numel(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel()) if shape else 1


def _same_end(name: str, names: set[str]) -> bool:
    """Whether a name is among others, where a prefix of the base model (`model.`) may differ."""
    if name in names:
        return True
    short = name.split(".", 1)[-1]
    return short in names or any(other.split(".", 1)[-1] == name for other in names)


def _without_numbers(name: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.)", "#", name)
