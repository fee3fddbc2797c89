"""Products of 16-bit numbers on a processor without instructions for them: in fp32, rounded once.

Without AVX512-BF16, AMX or their like, torch takes a product of bf16 or fp16 matrices element by
element, some ten times as slowly as one of fp32 matrices. So a forward pass has its products made
in fp32, of pieces of a matrix that are widened as they are needed:

    y = round_16(fp32(x) fp32(W)^T + fp32(b))

which is what the instructions compute, too, up to the order of their sums.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch._C import _get_tracing_state
from torch._C._functorch import maybe_current_level
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

HALF = (torch.bfloat16, torch.float16)
PIECE = 1 << 20  # elements of a matrix that are in fp32 at a time: 4 MB, which a cache holds
FEWEST = 8  # rows of a product that pay for widening the matrix


@cache
def is_native(dtype: torch.dtype) -> bool:
    """Whether the processor multiplies matrices of a type with instructions of its own."""
    if dtype not in HALF:
        return True
    name = "bf16" if dtype == torch.bfloat16 else "fp16"
    known = getattr(torch.ops.mkldnn, f"_is_mkldnn_{name}_supported", None)
    return known is not None and bool(known())


@contextmanager
def fast_products(module: nn.Module) -> Iterator[None]:
    """While active, products of 16-bit matrices on the CPU are made in fp32 where the processor has
    no instructions for theirs, and no gradient is wanted, which would keep the wide matrices.

    Args:
        module: the model that runs; its parameters' types are asked for.
    """
    if all(is_native(dtype) for dtype in {p.dtype for p in module.parameters() if p.is_cpu}):
        yield
        return
    with _Widened():
        yield


class _Widened(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in PRODUCTS and "out" not in kwargs and _is_plain() and _pays(func, args):
            return PRODUCTS[func](*args, **kwargs)
        return func(*args, **kwargs)


def _is_plain() -> bool:
    """Whether numbers alone are wanted: no gradient, tangent or mapped axis, and no other type."""
    return (
        not torch.is_grad_enabled()
        and forward_ad._current_level < 0
        and maybe_current_level() is None
        and not torch.is_autocast_enabled("cpu")
        and not _get_tracing_state()
    )


def _pays(func: Callable[..., Any], args: tuple[Any, ...]) -> bool:
    """Whether a product is of plain 16-bit tensors on the CPU, and of rows enough."""
    parts = [part for part in args if isinstance(part, Tensor)]
    x = parts[func is torch.addmm] if len(parts) > 1 else None
    return (
        x is not None
        and x.ndim > 1
        and x.is_cpu
        and not is_native(x.dtype)
        and x.numel() >= FEWEST * x.shape[-1]
        and all(type(part) in (Tensor, nn.Parameter) for part in parts)
        and all(part.dtype in (x.dtype, torch.bool) for part in parts)
    )


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b, some rows of W at a time."""
    usual = weight.ndim == 2 and weight.numel() and (bias is None or bias.shape == weight.shape[:1])
    if not usual:
        return F.linear(input, weight, bias)
    x, out = input.float(), input.new_empty(*input.shape[:-1], len(weight))
    rows = max(1, PIECE // weight.shape[1])
    for start in range(0, len(weight), rows):
        part = slice(start, start + rows)
        b = None if bias is None else bias[part].float()
        out[..., part] = F.linear(x, weight[part].float(), b)
    return out


def _matmul(input: Tensor, other: Tensor) -> Tensor:
    """A matrix on the right is a layer's, and may be large; of attention, each row has its own."""
    if other.ndim == 2:
        return _linear(input, other.mT)
    return torch.matmul(input.float(), other.float()).to(input.dtype)


def _addmm(input: Tensor, mat1: Tensor, mat2: Tensor, **scales: Any) -> Tensor:
    if scales or input.ndim != 1:
        return torch.addmm(input, mat1, mat2, **scales)
    return _linear(mat1, mat2.mT, input)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    *more: Any,
    **named: Any,
) -> Tensor:
    """Every number in fp32, so that the weights of attention are not rounded on the way."""
    if attn_mask is not None and attn_mask.is_floating_point():
        attn_mask = attn_mask.float()
    wide = (query.float(), key.float(), value.float())
    return F.scaled_dot_product_attention(*wide, attn_mask, *more, **named).to(query.dtype)


PRODUCTS: dict[Callable[..., Any], Callable[..., Tensor]] = {
    F.linear: _linear,
    torch.matmul: _matmul,
    Tensor.matmul: _matmul,
    Tensor.__matmul__: _matmul,
    torch.addmm: _addmm,
    F.scaled_dot_product_attention: _attention,
}
