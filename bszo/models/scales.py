"""Scales alone train: the integers of a quantised base stay, and each block's scale is a parameter.

    W = s * level(q),  s <- s - lr g z,  g = (L(s + eps z) - L(s - eps z)) / (2 eps)

s holds one number for 64 weights, so that all that trains is 1/64 of the model; the step shown is
MeZO's, and every method that takes differences has its own. Shang et al. 2025, arXiv 2505.13430
(QZO), which also clips g to [-C, C], as MeZO does with clip=C, and keeps s from falling below 0,
which is not done here.
"""

from pathlib import Path
from typing import Any

from torch import nn

from bszo.errors import ModelError, one_line
from bszo.models.language_model import LanguageModel

FILE = "scales.safetensors"
NAME = "scale"  # of the parameter, in the layer that it belongs to


def scales(model: LanguageModel) -> LanguageModel:
    """The model, of whose parameters the scales of the layers in nf4 train, in fp32.

    A layer reads its scales from the new parameter, so that what is done to one is done to both.

    Raises:
        ModelError: the model has no layer in nf4.
    """
    model.module.requires_grad_(False)
    for part in model.module.modules():
        state = getattr(getattr(part, "weight", None), "quant_state", None)
        if state is not None:
            state.absmax = nn.Parameter(state.absmax)
            part.register_parameter(NAME, state.absmax)
    if not scales_of(model.module):
        raise ModelError(
            f"tuning=scales: {model.name} has no layer in nf4, whose scales could train;"
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
    """The base in nf4 with the scales that `save_scales` wrote; ModelError: no such file, or of
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
