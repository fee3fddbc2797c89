"""Header of a GGUF file: what it says that transformers would leave out without a word.

A model that is loaded without a part of its file gives scores that look sound and are not its own.
So a file of several parts, rotary frequencies that are scaled in a way that is not known, and
tensors that the model has no place for are refused.
"""

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bszo.errors import ModelError

FACTORS = "rope_freqs.weight"  # by which a file of the Llama 3 family divides rotary frequencies
# of every model of that family; the fourth number, `factor`, is the largest of the tensor
LLAMA3 = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
READS_SCALING = ("gpt-oss",)  # architectures whose scaled frequencies transformers takes over
UNSCALED = (None, "none", 0, 1)


def check_header(metadata: Mapping[str, Any], file: Path) -> None:
    """Refuse a part of a file, and rotary frequencies that transformers would leave unscaled.

    Args:
        metadata: the header's keys and values.

    Raises:
        ModelError: naming the key.
    """
    if (parts := metadata.get("split.count", 1)) > 1:
        raise ModelError(
            f"model {file}: is one of {parts} parts (split.count); a file that holds the whole"
            " model is needed, as `llama-gguf-split --merge` makes it"
        )
    architecture = metadata["general.architecture"]
    if architecture in READS_SCALING:
        return
    for name in ("scaling.type", "scaling.factor", "scale_linear"):
        key = f"{architecture}.rope.{name}"
        if (value := metadata.get(key)) not in UNSCALED:
            raise ModelError(
                f"model {file}: its {key} is {value!r:.40}, and transformers would leave its rotary"
                " frequencies unscaled; the model's folder of safetensors is valid"
            )


def check_used(module: nn.Module, sizes: Mapping[str, int], missing: list[str], file: Path) -> None:
    """Refuse a file that lacks a tensor of the model, or holds one that the model has no place for.

    Args:
        module: what transformers made of the file.
        sizes: how many numbers each tensor of the file holds, by its name there.
        missing: the model's tensors that transformers did not find.

    Raises:
        ModelError: saying what is missing, or how many numbers were left.
    """
    if missing:  # transformers would go on with random numbers there
        raise ModelError(
            f"model {file}: lacks {missing[0]} (the first of {len(missing)} missing tensors)"
        )
    left_out = {FACTORS}  # `scaled_frequencies` takes it over
    config: Any = module.config
    if config.tie_word_embeddings:
        left_out.add("output.weight")  # the embedding once more
    held = sum(size for name, size in sizes.items() if name not in left_out)
    wanted = sum(parameter.numel() for parameter in module.parameters())
    if held != wanted:
        raise ModelError(
            f"model {file}: its tensors hold {held} numbers, and transformers makes a"
            f" {type(module).__name__} of {wanted}; the model's folder of safetensors is valid"
        )


def scaled_frequencies(config: Any, factors: Tensor, file: Path) -> dict[str, Any]:
    """The configuration's `rope_parameters` under which frequency i is divided by `factors[i]`.

    Llama 3.1 to 3.3 keep frequencies of short waves and divide those of long ones by `factor`. The
    file holds the result alone, (head_dim / 2,) numbers, from which `factor` is read off; the rest
    is computed again and must agree.

    Raises:
        ModelError: the factors are not of that form.
    """
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    trial = deepcopy(config)
    theta = trial.rope_parameters["rope_theta"]
    trial.rope_parameters = {**LLAMA3, "rope_theta": theta, "factor": float(factors.max())}
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](trial, torch.device("cpu"))
    width = 2 * len(scaled)
    plain = theta ** -(torch.arange(0, width, 2) / width)
    if factors.shape != scaled.shape or not torch.allclose(plain / factors, scaled, rtol=1e-5):
        raise ModelError(
            f"model {file}: its {FACTORS} scales rotary frequencies otherwise than Llama 3.1 to 3.3"
            " do; the model's folder of safetensors is valid"
        )
    return dict(trial.rope_parameters)
