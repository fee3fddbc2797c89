"""Scales alone train: the integers of a quantised base stay, and each block's scale is a parameter.

    nf4    W = s * level(q), one s for 64 weights, the size of the greatest of them
    int8   W = s * q, one s a row, 1/127.5 of the size of its greatest weight
    s <- s - lr g z,  g = (L(s + eps z) - L(s - eps z)) / (2 eps)

The step shown is MeZO's, and every method that takes differences has its own. An s of int8 is some
hundred times smaller, so that eps has to be so too, and lr by the square of it. Shang et al. 2025,
arXiv 2505.13430 (QZO), which also clips g to [-C, C], as MeZO does with clip=C, and keeps s from
falling below 0, which is not done here.
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from bszo.errors import ModelError, one_line
from bszo.models.language_model import LanguageModel

FILE = "scales.safetensors"
NAME = "scale"  # of the parameter, in the layer that it belongs to


def scales(model: LanguageModel) -> LanguageModel:
    """The model, of whose parameters the scales of the quantised layers train, in fp32.

    A layer reads its scales from the new parameter, so that what is done to one is done to both.

    Raises:
        ModelError: the model has no quantised layer, or one in int8 that computes in 16 bits. Such
            a layer rounds its scales to 16 bits at every pass, which undoes a small perturbation.
    """
    model.module.requires_grad_(False)
    for part in model.module.modules():
        weight: Any = getattr(part, "weight", None)
        if (state := getattr(weight, "quant_state", None)) is not None:  # of bitsandbytes
            state.absmax = trained = nn.Parameter(state.absmax)
        elif hasattr(weight, "qdata"):  # of torchao
            if weight.dtype != torch.float32:
                raise ModelError(
                    f"tuning=scales: {model.name} computes in"
                    f" {str(weight.dtype).removeprefix('torch.')}, to which a layer in int8 rounds"
                    " its scales; float32 is valid, or model.quantization=nf4"
                )
            weight.scale = trained = nn.Parameter(weight.scale)
        else:
            continue
        part.register_parameter(NAME, trained)
    if not scales_of(model.module):
        raise ModelError(
            f"tuning=scales: {model.name} has no layer in nf4 or int8, whose scales could train;"
            " model.quantization=nf4 is valid"
        )
    return model


def scales_of(module: nn.Module) -> dict[str, nn.Parameter]:
    """The scales that train, by name; empty where none do."""
    return {
        name: parameter
        for name, parameter in module.named_parameters()
        if name.rsplit(".", 1)[-1] == NAME and parameter.requires_grad
    }


def save_scales(module: nn.Module, folder: Path) -> None:
    """Save the scales alone, as safetensors."""
    from safetensors.torch import save_file

    save_file({name: value.detach() for name, value in scales_of(module).items()}, folder / FILE)


def load_scales(model: LanguageModel, folder: Path) -> LanguageModel:
    """The quantised base with the scales that `save_scales` wrote; ModelError: no such file, or of
    another model."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    trained: dict[str, Any] = scales_of(scales(model).module)
    try:
        stored = load_file(folder / FILE)
        if stored.keys() != trained.keys():
            raise ValueError("its tensors have other names")
        for name, value in stored.items():
            trained[name].data.copy_(value)
    except (OSError, RuntimeError, SafetensorError, ValueError) as error:
        raise ModelError(
            f"scales {folder / FILE}: do not fit {model.name}: {one_line(error)}"
        ) from error
    return model
