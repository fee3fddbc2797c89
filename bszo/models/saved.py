"""Trained parameters as files: an adapter in peft's format, the head of a probe, the scales of a
quantised model, or a whole model in transformers' format."""

from pathlib import Path
from typing import Any

from bszo.errors import ModelError, needs, one_line
from bszo.files import folder_written_whole
from bszo.models.language_model import LanguageModel, kind_of
from bszo.models.reading import quiet
from bszo.models.scales import save_scales, scales_of
from bszo.models.tuning import REFUSALS, attached, limit_beside, wrapped


def save_tuned(model: LanguageModel, folder: Path) -> None:
    """Save what was trained: an adapter in peft's format, the scales of a quantised model, or else
    the model in transformers' format.

    The folder appears whole or not at all.

    Raises:
        ModelError: the folder is there already, or cannot be written; nothing is left behind.
    """
    if folder.exists():
        raise ModelError(f"{folder}: is there already; weights are written to a new folder")
    try:
        with folder_written_whole(folder) as temporary:
            write_tuned(model, temporary)
    except OSError as error:
        raise ModelError(f"{folder}: cannot be written ({one_line(error)})") from error


def write_tuned(model: LanguageModel, folder: Path) -> None:
    """The same into a folder that is there, beside what else it holds.

    Raises:
        OSError: a file cannot be written, or what is to be written contradicts itself.
    """
    with needs("lm"):
        from peft import PeftModel
    from safetensors import SafetensorError

    module: Any = model.module
    try:
        with quiet():
            if isinstance(module, PeftModel):
                # "auto" asks the hub
                module.save_pretrained(str(folder), save_embedding_layers=False)
                # peft's model card says where the base lies on this machine
                (folder / "README.md").unlink(missing_ok=True)
            elif scales_of(module):
                save_scales(module, folder)
            else:
                module.config._name_or_path = ""  # the base's path is its owner's
                module.save_pretrained(folder)
                model.tokenizer.save_pretrained(folder)
    # transformers refuses to save what it finds contradictory
    except (SafetensorError, ValueError) as error:
        raise OSError(one_line(error)) from error


def load_tuned(model: LanguageModel, folder: Path) -> LanguageModel:
    """The base model with an adapter that `save_tuned`, or peft, wrote; it can go on training.

    Raises:
        ModelError: no adapter in the folder, a damaged one, or one of another model.
    """
    from peft import (
        PeftConfig,
        get_peft_model_state_dict,
        load_peft_weights,
        set_peft_model_state_dict,
    )
    from safetensors import SafetensorError

    missing = [
        name
        for name in ("adapter_config.json", "adapter_model.safetensors")
        if not (folder / name).is_file()
    ]
    if missing:
        raise ModelError(
            f"adapter {folder}: has no {missing[0]}; a folder that peft has written is needed"
        )
    try:
        config: Any = PeftConfig.from_pretrained(str(folder))
        # peft writes True, and its from_pretrained has virtual tokens stay so
        config.inference_mode = False
        config.base_model_name_or_path = None  # the base is at hand
        module = attached(model, config, seed=0)
        weights = load_peft_weights(str(folder), device=str(model.device))
        if set(weights) != set(get_peft_model_state_dict(module, save_embedding_layers=False)):
            raise ValueError("its tensors have other names")
        set_peft_model_state_dict(module, weights)
    except (*REFUSALS, OSError, SafetensorError) as error:
        raise ModelError(
            f"adapter {folder}: does not fit {kind_of(model)}: {one_line(error)}"
        ) from error
    num_tokens = getattr(config, "num_virtual_tokens", 0)
    return wrapped(model, module, limit_beside(model, num_tokens) if num_tokens else model.limit)
