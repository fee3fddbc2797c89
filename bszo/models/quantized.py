"""Quantised bases: the matrices of a model in 4 or 8 bits, which stay as they are while an adapter
trains.

    nf4    blocks of 64 weights, each one of 16 levels times the block's scale (4.5 bits a weight)
    int8   rows of integers from -128 to 127, each row times its scale (8 bits a weight)

A layer answers dequantise(W) x, in the type of x. Its input is not quantised: a loss that moves in
the steps of 8-bit activations says nothing about a perturbation of 1e-3. Embeddings, norms and the
output layer keep `dtype`.

Dettmers et al. 2023, arXiv 2305.14314 (nf4, by bitsandbytes); int8 is torchao's weight-only form.
"""

import importlib
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._C._functorch import (
    peek_interpreter_stack,  # pyright: ignore[reportAttributeAccessIssue, reportMissingImports]
)

from bszo.errors import ModelError, needs

Quantization = Literal["none", "nf4", "int8"]
LIBRARIES = {"nf4": "bitsandbytes", "int8": "torchao"}


def check_quantization(quantization: str) -> None:
    """ModelError unless there is such a quantisation."""
    if quantization not in ("none", *LIBRARIES):
        raise ModelError(
            f"model.quantization={quantization}: must be one of none, {', '.join(LIBRARIES)}"
        )


def loading_options(
    quantization: str, dtype: torch.dtype, device: str, device_map: Any
) -> dict[str, Any]:
    """The arguments of `from_pretrained` by which transformers quantises each matrix as it is read;
    none for "none".

    Raises:
        MissingExtra: the library that does it is not installed.
    """
    if quantization == "none":
        return {"device_map": device_map}
    with needs("quantized"), _no_kernels_of_the_hub():
        importlib.import_module("accelerate")
        importlib.import_module(LIBRARIES[quantization])
    if quantization == "nf4":
        from transformers import BitsAndBytesConfig

        config: Any = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
        )
    else:
        from torchao.quantization import (  # pyright: ignore[reportMissingImports]
            Int8WeightOnlyConfig,
        )
        from transformers import TorchAoConfig

        config = TorchAoConfig(Int8WeightOnlyConfig())
    return {"quantization_config": config, "device_map": device_map or {"": device}}


def settle_(module: nn.Module, path: str) -> None:
    """Freeze a module that was just quantised, and have its weights stay as they are.

    Where a CPU multiplies in bfloat16, bitsandbytes would rewrite a layer's weights and round their
    scales at its first pass, and then compute in bfloat16 whatever the type of x: a perturbation
    would drown in the rounding. Its layers lose the tangent of a forward-mode derivative without a
    word, and raise from now on.

    Raises:
        ModelError: no matrix of the module was quantised.
    """
    module.requires_grad_(False)
    for part in module.modules():
        if hasattr(part, "support_avx512bf16_for_cpu"):
            part.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
            part.register_forward_pre_hook(_refuse_transforms)
    if not any(is_quantized(parameter) for parameter in module.parameters()):
        raise ModelError(
            f"model {path}: none of its layers can be quantised; model.quantization=none is valid"
        )


def _refuse_transforms(part: nn.Module, inputs: Any) -> None:
    if peek_interpreter_stack() is not None:
        raise NotImplementedError("a layer in nf4 has no rule for jvp, nor for torch.func's others")


def is_quantized(parameter: Tensor) -> bool:
    """Whether a parameter consists of integers and their scales."""
    return len(list(parts_of("", parameter))) > 1


def parts_of(name: str, parameter: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The tensors that a parameter consists of, by name: itself, or of a quantised one its integers
    and its scales."""
    data: Any = parameter.detach()
    if (state := getattr(parameter, "quant_state", None)) is not None:  # of bitsandbytes
        yield name, data
        yield f"{name}.absmax", state.absmax
    elif hasattr(data, "__tensor_flatten__"):  # of torchao
        names, _ = data.__tensor_flatten__()
        yield from ((f"{name}.{part}", getattr(data, part)) for part in names)
    else:
        yield name, data


def described(quantization: str) -> dict[str, Any] | None:
    """What a record says of a quantised base: the form, and the library that made it with its
    version."""
    if quantization == "none":
        return None
    library = LIBRARIES[quantization]
    return {"kind": quantization, "library": f"{library} {version(library)}"}


@contextmanager
def _no_kernels_of_the_hub() -> Iterator[None]:
    """While active, the package `kernels` cannot be imported, by which bitsandbytes would fetch
    code from the hub as it is loaded; it warns where it cannot."""
    said = logging.getLogger("bitsandbytes.backends.cpu.ops")
    there, disabled = sys.modules.get("kernels"), said.disabled
    sys.modules["kernels"] = None  # type: ignore[assignment]
    said.disabled = True
    try:
        yield
    finally:
        said.disabled = disabled
        if there is None:
            del sys.modules["kernels"]
        else:
            sys.modules["kernels"] = there
