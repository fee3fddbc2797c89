"""Loading of a pretrained model and its tokenizer by path: safetensors only, no code from the
model's folder (docs/threats.md, "Weights that would run code")."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch

from bszo.errors import ModelError, needs, one_line
from bszo.models import hub
from bszo.models.language_model import LanguageModel
from bszo.models.locate import ASSET, check_folder, locate
from bszo.models.on_disk import check_offload, move_to_disk_, stored_type, type_buffers_
from bszo.models.quantized import Quantization, check_quantization, loading_options, settle_
from bszo.models.reading import quiet, reading
from bszo.models.traits import find_traits
from bszo.models.weights import (
    check_config,
    check_stored,
    check_unused,
    no_pickles,
    stored_tensors,
)

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
KINDS = ("auto", "masked", "causal")
log = logging.getLogger(__name__)
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
    packed: bool | None = False,
    quantization: Quantization = "none",
    offload: str | None = None,
) -> LanguageModel:
    """The model at `path`, in eval mode, as a LanguageModel.

    Args:
        path: a folder in Hugging Face format, a GGUF file (`bszo.models.gguf`), `asset:NAME` for a
            model of this package, `cache:NAME@HEX` for one that `experiments.fetch` has put into
            the cache, or a hub name.
        dtype: of the parameters.
        device: where they go.
        kind: masked or causal; auto reads it from the configuration's architectures.
        revision: branch, tag or commit on the hub; None for its main branch.
        max_length: most tokens of a row; the model's own number of positions bounds it too.
        name: label for logs and records; None for the path's last part.
        device_map: spreads the model over several GPUs (accelerate): auto, balanced, or {module:
            device}; None puts all of it on `device`.
        packed: puts the texts of a batch behind one another, in few rows, so that hardly any time
            is spent on padding, or twice on what texts begin with alike (`bszo.models.packing`);
            for causal models. Losses and scores are the same up to rounding. None: where a trial
            of the model says so.
        quantization: nf4 or int8 keeps the matrices in 4 or 8 bits, frozen, for an adapter of
            `bszo.models.tuning` to train beside them (`bszo.models.quantized`).
        offload: a folder of a disk, where the parameters then stand in a file instead of in memory
            (`bszo.models.on_disk`); for models larger than memory, on a CPU.

    Raises:
        ModelError: one line that names the path or argument and what is missing, wrong or refused.
        MissingExtra: the package that quantises is not installed.
    """
    check_placement(dtype, device)
    if kind not in KINDS:
        raise ModelError(f"model.kind={kind}: must be one of {', '.join(KINDS)}")
    check_quantization(quantization)
    folder = locate(path)
    if folder is not None and revision is not None:
        raise ModelError(
            f"model.revision={revision}: {path} lies here and has none; null is valid, and a"
            " revision of a model on the hub"
        )
    if isinstance(device_map, str) and device_map not in SPREADS:
        raise ModelError(
            f"model.device_map={device_map}: must be one of {', '.join(SPREADS)}, or {{module:"
            " device}"
        )
    _refuse_offload(path, device_map.values() if isinstance(device_map, dict) else ())
    if offload is not None:
        check_offload(offload, device, device_map, quantization)
    with quiet():
        options = loading_options(quantization, DTYPES[dtype], device, device_map)
        as_stored = offload is not None
        style, tokenizer, module = _read(
            path, folder, revision, kind, DTYPES[dtype], options, as_stored
        )
    if packed and style == "masked":
        raise ModelError(
            f"model {path}: model.packed=true is for causal models and this one fills masks;"
            " model.packed=false is valid"
        )
    _refuse_offload(path, (parameter.device.type for parameter in module.parameters()))
    _check_tokens(tokenizer, module, path)
    if quantization != "none":
        settle_(module, path)
    elif offload is not None:
        move_to_disk_(module, Path(offload).expanduser(), DTYPES[dtype])
    elif device_map is None:
        module.to(torch.device(device))
    module.eval()
    label = name or path.removeprefix(ASSET).rstrip("/").split("/")[-1]
    model = LanguageModel(module, tokenizer, style=style, max_length=max_length, name=label)
    special = set(tokenizer.all_special_ids)
    vocabulary = sorted(set(tokenizer.get_vocab().values()) - special)
    model.traits = find_traits(
        module,
        style=style,
        path=path,
        vocabulary=vocabulary,
        pad_id=model.pad_id,
        packed=packed,
        longest=model.limit,
    )
    if not model.traits.padded:
        log.warning("%s: padding moves its scores; rows of one length share a pass", label)
    return model


def _check_tokens(tokenizer: Any, module: Any, path: str) -> None:
    """ModelError unless the embedding has a row for every token's id."""
    num_rows = module.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > num_rows:
        raise ModelError(
            f"model {path}: its tokenizer has {len(tokenizer)} tokens, its embedding {num_rows}"
        )
    token, highest = max(tokenizer.get_vocab().items(), key=lambda item: item[1])
    if highest >= num_rows:
        raise ModelError(
            f"model {path}: its tokenizer gives {token!r:.80} the id {highest}, its embedding has"
            f" rows 0 to {num_rows - 1}"
        )


def resolve_device(device: str) -> str:
    """The device by its name; auto is the GPU if there is one."""
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def check_placement(dtype: str, device: str) -> None:
    """ModelError unless parameters of this dtype can be made on this device."""
    if dtype not in DTYPES:
        raise ModelError(f"dtype {dtype}: must be one of {', '.join(DTYPES)}")
    try:
        made = torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # a torch built without CUDA asserts
        raise ModelError(f"device {device}: cannot be used here: {one_line(error)}") from error
    if made.is_meta:
        raise ModelError(f"device {device}: holds no values; cpu is valid, and auto")


def _refuse_offload(path: str, devices: Iterable[int | str]) -> None:
    """accelerate keeps the weights that find no room on a CPU or a disk, and a shadow of them on
    `meta`."""
    if away := [device for device in devices if device in ("disk", "meta")]:
        raise ModelError(
            f"model {path}: its device_map leaves weights on {away[0]}; weights that"
            " accelerate offloads cannot be perturbed: more or larger GPUs, or a smaller precision,"
            " are needed; on a CPU model.offload=DIR keeps them on a disk"
        )


def _read(
    path: str,
    folder: Path | None,
    revision: str | None,
    kind: str,
    dtype: torch.dtype,
    options: dict[str, Any],
    as_stored: bool,
) -> tuple[Literal["masked", "causal"], Any, Any]:
    """Style, tokenizer and module; transformers is imported here because that takes seconds.

    With `as_stored` the module has its files' own type where that is one. Then its parameters are
    pieces of the files, of which none is in memory before it is used.
    """
    with needs("lm"):
        from transformers import (
            AutoConfig,
            AutoModelForCausalLM,
            AutoModelForMaskedLM,
            AutoTokenizer,
        )

    from_hub = folder is None
    with reading("config.json", path, on_disk=not from_hub):
        config = AutoConfig.from_pretrained(
            str(folder or path), revision=revision or "main", trust_remote_code=False
        )
    _refuse_encoder_decoder(config, kind, path)
    if getattr(config, "attention_type", None) == "block_sparse":
        raise ModelError(
            f"model {path}: attention_type=block_sparse changes to original_full for good at the"
            " first short row, so that scores depend on what came before; attention_type="
            "original_full in its config.json is valid"
        )
    style = _style(config.architectures or [], kind, path)
    if folder is None:  # the configuration is sound, so that the weights are worth their download
        with reading("files", path, on_disk=False):
            folder = hub.download(path, revision)
        check_folder(folder, path)
    stored = stored_tensors(folder, path)
    with reading("config.json", path):
        check_config(config, stored, path)
    with reading("tokenizer", path):
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    auto: Any = AutoModelForMaskedLM if style == "masked" else AutoModelForCausalLM
    with reading("weights", path), no_pickles(path):
        module, info = auto.from_pretrained(
            str(folder),
            trust_remote_code=False,
            config=config,
            dtype=(as_stored and stored_type(stored)) or dtype,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    if as_stored and module.dtype != dtype:
        type_buffers_(module, auto, dtype, path)
    if from_hub:  # adapters say what their base is called there
        module.name_or_path = module.config.name_or_path = path
    missing = sorted(info["missing_keys"])
    if missing:  # transformers would go on with random numbers there
        raise ModelError(
            f"model {path}: its safetensors lack {missing[0]} (the first of {len(missing)} missing"
            f" tensors), which a {style} language model needs"
        )
    check_stored(module, stored, path)
    unused = sorted(info["unexpected_keys"])
    check_unused(module, unused, path)
    if unused:
        log.warning(
            "%s: %d tensors of its weights are not used, the first is %s",
            path,
            len(unused),
            unused[0],
        )
    return style, tokenizer, module


def _refuse_encoder_decoder(config: Any, kind: str, path: str) -> None:
    """T5 and its like answer from a decoder of their own; those that fill masks (BART) can be
    taken as masked ones."""
    if not getattr(config, "is_encoder_decoder", False):
        return
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as FILLERS

    if config.model_type in FILLERS and kind == "masked":
        return
    way = "; it fills masks: model.kind=masked" if config.model_type in FILLERS else ""
    raise ModelError(
        f"model {path}: {config.model_type} is an encoder-decoder model, of which none is taken;"
        f" a masked or a causal language model is needed{way}"
    )


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
