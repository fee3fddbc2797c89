"""A pretrained model and its tokenizer by path: safetensors only, no code from the model's
folder."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

from bszo.errors import ModelError
from bszo.models.language_model import LanguageModel
from bszo.models.locate import ASSET, locate

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
KINDS = ("auto", "masked", "causal")
SPREADS = ("auto", "balanced", "balanced_low_0", "sequential")  # of accelerate


def load_model(
    path: str,
    *,
    dtype: Literal["float32", "float16", "bfloat16"],
    device: str = "cpu",
    kind: Literal["auto", "masked", "causal"] = "auto",
    revision: str | None = None,
    max_length: int = 2048,
    name: str | None = None,
    device_map: str | dict[str, int | str] | None = None,
) -> LanguageModel:
    """The model at `path`, in eval mode, as a LanguageModel.

    Args:
        path: a folder in Hugging Face format, `asset:NAME` for a model of this package,
            `cache:NAME@HEX` for one that `experiments.fetch` has put into the cache, or a hub name.
        dtype: of the parameters.
        device: where they go.
        kind: masked or causal; auto reads it from the configuration's architectures.
        revision: branch, tag or commit on the hub; None for its main branch.
        max_length: most tokens of a row; the model's own number of positions bounds it too.
        name: label for logs and records; None for the path's last part.
        device_map: spreads the model over several GPUs (accelerate): auto, balanced, or {module:
            device}; None puts all of it on `device`.

    Raises:
        ModelError: one line that names the path or argument and what is missing, wrong or refused.
    """
    check_placement(dtype, device)
    if kind not in KINDS:
        raise ModelError(f"model.kind={kind}: must be one of {', '.join(KINDS)}")
    folder = locate(path)
    source = {"pretrained_model_name_or_path": str(folder or path), "trust_remote_code": False}
    if folder is None and revision is not None:
        source["revision"] = revision
    if isinstance(device_map, str) and device_map not in SPREADS:
        raise ModelError(
            f"model.device_map={device_map}: must be one of {', '.join(SPREADS)}, or {{module:"
            " device}"
        )
    _refuse_offload(path, device_map.values() if isinstance(device_map, dict) else ())
    with quiet():
        style, tokenizer, module = _read(
            source, path, folder is not None, kind, DTYPES[dtype], device_map
        )
    _refuse_offload(path, (parameter.device.type for parameter in module.parameters()))
    num_rows = module.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > num_rows:
        raise ModelError(
            f"model {path}: its tokenizer has {len(tokenizer)} tokens, its embedding {num_rows}"
        )
    if device_map is None:
        module.to(torch.device(device))
    module.eval()
    label = name or path.removeprefix(ASSET).rstrip("/").split("/")[-1]
    return LanguageModel(module, tokenizer, style=style, max_length=max_length, name=label)


def check_placement(dtype: str, device: str) -> None:
    """ModelError unless parameters of this dtype can be made on this device."""
    if dtype not in DTYPES:
        raise ModelError(f"dtype {dtype}: must be one of {', '.join(DTYPES)}")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # a torch built without CUDA asserts
        raise ModelError(f"device {device}: cannot be used here: {one_line(error)}") from error


def _refuse_offload(path: str, devices: Iterable[int | str]) -> None:
    """accelerate keeps the weights that find no room on a CPU or a disk, and a shadow of them on
    `meta`."""
    if away := [device for device in devices if device in ("disk", "meta")]:
        raise ModelError(
            f"model {path}: its device_map leaves weights on {away[0]}; offloaded weights cannot be"
            " perturbed: more or larger GPUs, or a smaller precision, are needed"
        )


def one_line(error: BaseException) -> str:
    """The first sentence of an exception's message without its line breaks, cut to 240
    characters."""
    text = " ".join(str(error).split()).split(". ")[0]
    return text if len(text) <= 240 else text[:237] + "..."


def _read(
    source: dict[str, Any],
    path: str,
    on_disk: bool,
    kind: str,
    dtype: torch.dtype,
    device_map: str | dict[str, int | str] | None,
) -> tuple[Literal["masked", "causal"], Any, Any]:
    """Style, tokenizer and module; transformers is imported here because that takes seconds."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

    with reading("config.json", path, on_disk):
        config = AutoConfig.from_pretrained(**source)
    style = _style(config.architectures or [], kind, path)
    with reading("tokenizer", path, on_disk):
        tokenizer = AutoTokenizer.from_pretrained(**source)
    auto: Any = AutoModelForMaskedLM if style == "masked" else AutoModelForCausalLM
    with reading("weights", path, on_disk):
        module, info = auto.from_pretrained(
            **source,
            config=config,
            dtype=dtype,
            device_map=device_map,
            use_safetensors=True,
            output_loading_info=True,
        )
    missing = sorted(info["missing_keys"])
    if missing:  # transformers would go on with random numbers there
        raise ModelError(
            f"model {path}: its safetensors lack {missing[0]} (the first of {len(missing)} missing"
            f" tensors), which a {style} language model needs"
        )
    return style, tokenizer, module


def _style(architectures: list[str], kind: str, path: str) -> Literal["masked", "causal"]:
    masked = any(name.endswith("ForMaskedLM") for name in architectures)
    causal = any(name.endswith(("ForCausalLM", "GPT2LMHeadModel")) for name in architectures)
    if kind == "masked" or (kind == "auto" and masked and not causal):
        return "masked"
    if kind == "causal" or (kind == "auto" and causal and not masked):
        return "causal"
    raise ModelError(
        f"model {path}: architectures {architectures} name no masked or causal language model;"
        " if it is one, say which: model.kind=masked or model.kind=causal"
    )


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings and no progress bars from transformers inside; its settings are as before
    afterwards."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def reading(what: str, path: str, on_disk: bool) -> Iterator[None]:
    """All that transformers raises for a bad file or an unreachable hub, as one ModelError."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    expected = (
        ArithmeticError,
        AssertionError,
        AttributeError,
        ImportError,
        LookupError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
    )
    try:
        yield
    except (*expected, SafetensorError, StrictDataclassError) as error:
        if on_disk:
            raise ModelError(
                f"model {path}: its {what} cannot be read: {one_line(error)}"
            ) from error
        raise ModelError(
            f"model {path}: no folder of that name, and its {what} could not be had from the hub; a"
            f" folder loads with model=local model.path=DIR ({one_line(error)})"
        ) from error
