"""What a direction of each example's own adds to a layer's answer, in C: `own.c`."""

import ctypes

import torch
from torch import Tensor

from bszo.perturb.compiled.loader import FORMATS, loaded


class _Own(ctypes.Structure):
    """`Own` of the C."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("y", "x", "left", "right", "of")),
        *((name, ctypes.c_int64) for name in ("positions", "rows", "columns")),
        *((name, ctypes.c_int32) for name in ("rank", "type", "threads")),
        ("c", ctypes.c_float),
    ]


def add_own(y: Tensor, x: Tensor, a: Tensor, b: Tensor, of: Tensor, c: float) -> None:
    """y_p <- y_p + c A_e (B_e^T x_p) at every position p, of example e = of[p]; summed in fp32 and
    rounded once.

    Args:
        y: (positions, m), which `serves` takes.
        x: (positions, n), of y's type, which `serves` takes.
        a, b: A (G, m, r) and B (G, n, r); they are read in fp32.
        of: (positions,), integers from 0 to G - 1: the caller has seen that they are.
        c: the length.
    """
    left, right = (t.mT.to("cpu", torch.float32).contiguous() for t in (a, b))
    of = of.to("cpu", torch.int64).contiguous()
    (positions, rows), columns = y.shape, x.shape[1]
    examples, rank, _ = left.shape
    assert rank and x.dtype == y.dtype and of.shape == (positions,) == x.shape[:1]
    assert left.shape == (examples, rank, rows) and right.shape == (examples, rank, columns)
    arguments = _Own(
        y=y.data_ptr(),
        x=x.data_ptr(),
        left=left.data_ptr(),
        right=right.data_ptr(),
        of=of.data_ptr(),
        positions=positions,
        rows=rows,
        columns=columns,
        rank=rank,
        type=FORMATS[y.dtype],
        threads=torch.get_num_threads(),
        c=c,
    )
    loaded().add_own(ctypes.byref(arguments))
