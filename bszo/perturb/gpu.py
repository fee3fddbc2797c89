"""The noise of `bszo.perturb.noise` on a GPU: one Triton kernel reads theta, makes z in registers and writes once.

The same hash and the same inverse normal as there, to the last few ulps. Keys travel as arguments of the launch, so
that nothing is copied to the device and no launch waits.
"""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

try:  # torch brings Triton along where it has CUDA
    import triton
    import triton.language as tl
except ImportError:
    triton = None

_BLOCK, _NUM_WARPS = 2048, 8  # 8 elements a thread: loads of 16 bytes in 16 bits


def serves(theta: Tensor) -> bool:
    """Whether the kernel takes a tensor: on a GPU that Triton knows, in 16 or 32 bits."""
    return triton is not None and theta.is_cuda and theta.dtype in (torch.float32, torch.bfloat16, torch.float16)


def shift(out: Tensor, theta: Tensor | None, keys: Sequence[tuple[int, int]], factors: Sequence[float], *,
          decay: float = 1.0, round_key: tuple[int, int] | None = None, rademacher: bool = False,
          counter: Tensor | None = None, curvature: Tensor | None = None) -> None:
    """out = decay theta + sum_i c_i z_i / sqrt(h), summed in fp32 and rounded once; every tensor is flat.

    Args:
        out: where the result goes; it may be theta itself.
        theta: None for zeros.
        keys: of (seed, parameter), one a term; see `noise.key`.
        factors: c_i, one a term.
        decay: factor on theta.
        round_key: rounds bf16 stochastically with this key's bits.
        rademacher: z is +1 and -1 alike instead of N(0, 1).
        counter: int32, the elements' numbers in their parameter, where they are not 0, 1, 2, ...
        curvature: h, element by element; None for ones.
    """
    if out.numel() == 0:
        return
    terms = tuple(x for k, c in zip(keys, factors, strict=True) for x in (c, *_halves(k)))
    _kernels().shift[(triton.cdiv(out.numel(), _BLOCK),)](
        out, out if theta is None else theta, out if counter is None else counter,
        out if curvature is None else curvature, out.numel(), float(decay), terms, _halves(round_key or (0, 0)),
        HAS_THETA=theta is not None, HAS_COUNTER=counter is not None, HAS_CURVATURE=curvature is not None,
        ROUND=round_key is not None, RADEMACHER=rademacher, BLOCK=_BLOCK, num_warps=_NUM_WARPS)  # fmt: skip


def shift_low_rank(out: Tensor, theta: Tensor, u: Tensor, v: Tensor, *, decay: float = 1.0,
                   round_key: tuple[int, int] | None = None) -> None:
    """out = decay theta + U V^T for (rows, columns) matrices, (rows, r) U and (columns, r) V in fp32, rounded once."""
    rows, columns = theta.shape
    grid = (rows, triton.cdiv(columns, _BLOCK))
    _kernels().low_rank[grid](out, theta, u, v, columns, float(decay), _halves(round_key or (0, 0)),
                              RANK=u.shape[1], ROUND=round_key is not None, BLOCK=_BLOCK, num_warps=_NUM_WARPS)


def _halves(key: tuple[int, int]) -> tuple[float, ...]:
    """Both 32-bit words as 16-bit halves, high first: Triton compiles anew for some integers, never for floats."""
    return tuple(float(half) for word in key for half in ((word >> 16) & 0xFFFF, word & 0xFFFF))


@functools.cache
def _kernels() -> Any:
    from bszo.perturb import kernels  # not earlier: it is written in Triton

    return kernels
