"""Noise in C, `noise.c`: theta is read, z made in registers, the sum written once.

The hash and the inverse normal are those of `bszo.perturb.noise.spec`, to the last few ulps, and
the same bits on every CPU.
"""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bszo.perturb.compiled.loader import FORMATS, loaded


class _Shift(ctypes.Structure):
    """`Shift` of the C."""

    _fields_ = [
        *(
            (name, ctypes.c_void_p)
            for name in ("out", "theta", "step", "left", "right", "curvature")
        ),
        ("keys", ctypes.POINTER(ctypes.c_uint32)),
        ("factors", ctypes.POINTER(ctypes.c_float)),
        ("size", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        *(
            (name, ctypes.c_int32)
            for name in (
                "rank",
                "type",
                "curvature_type",
                "terms",
                "rademacher",
                "stochastic",
                "threads",
            )
        ),
        ("drift", ctypes.c_float),
        ("first", ctypes.c_uint32),
        ("round_keys", ctypes.c_uint32 * 2),
    ]


def shift(
    out: Tensor,
    theta: Tensor | None,
    keys: Sequence[tuple[int, int]],
    factors: Sequence[float],
    *,
    decay: float = 1.0,
    step: Tensor | None = None,
    product: tuple[Tensor, Tensor] | None = None,
    first: int = 0,
    round_key: tuple[int, int] | None = None,
    rademacher: bool = False,
    curvature: Tensor | None = None,
) -> None:
    """Compute out = decay theta + step + sum_i c_i z_i / sqrt(h), or decay theta + A B, summed in
    fp32 and rounded once, for tensors that `serves` takes.

    Args:
        out, theta, keys, factors, decay, round_key, rademacher, curvature: as for `gpu.shift`;
            theta is of out's type, and given where decay is not 1.
        step: fp32, added to the sum; None stands for zeros.
        product: A (rows, r) and B (r, columns) in fp32. Then theta, a matrix, must be given, and
            keys, factors, step and curvature must not.
        first: the number of the first element in its parameter.
    """
    if product is not None:
        assert theta is not None and step is None and curvature is None and not factors
    assert theta is not None or decay == 1.0
    words = _words(keys)
    left, right = product or (None, None)
    arguments = _Shift(
        out=out.data_ptr(),
        theta=_address(theta),
        step=_address(step),
        left=_address(left),
        right=_address(right),
        curvature=_address(curvature),
        keys=words,
        factors=(ctypes.c_float * len(factors))(*factors),
        size=out.numel(),
        columns=1 if right is None else right.shape[-1],
        rank=0 if left is None else left.shape[-1],
        type=FORMATS[out.dtype],
        curvature_type=0 if curvature is None else FORMATS[curvature.dtype],
        terms=len(factors),
        rademacher=rademacher,
        stochastic=round_key is not None,
        threads=torch.get_num_threads(),
        drift=decay - 1.0,
        first=first,
        round_keys=(ctypes.c_uint32 * 2)(*(round_key or (0, 0))),
    )
    loaded().shift(ctypes.byref(arguments))


def draw(out: Tensor, keys: Tensor, *, rademacher: bool = False) -> None:
    """Write z under each key into a row of out, fp32 (rows, elements); the keys are (rows, 2),
    int32."""
    keys = keys.contiguous()
    loaded().draw(
        ctypes.c_void_p(out.data_ptr()),
        ctypes.c_int64(out.shape[0]),
        ctypes.c_int64(out.shape[1]),
        ctypes.c_void_p(keys.data_ptr()),
        ctypes.c_int32(rademacher),
        ctypes.c_int32(torch.get_num_threads()),
    )


def _words(keys: Sequence[tuple[int, int]]) -> Any:
    return (ctypes.c_uint32 * (2 * len(keys)))(*(word for pair in keys for word in pair))


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
