"""Noise on a CPU: the C of `cpu.c`, which reads theta, makes z in registers and writes once, and of
`own.c`, which adds what a direction of each example's own does to a layer's answer.

It is compiled once on a machine, in a second, and kept in the cache. The hash and the inverse
normal are those of `spec`, to the last few ulps, and the same bits on every CPU.
"""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bszo.cache import cache_folder
from bszo.errors import one_line
from bszo.files import written_whole

_SOURCES = [Path(__file__).with_name(name) for name in ("cpu.c", "own.c")]
_HEADER = Path(__file__).with_name("formats.h")
_TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}  # as the C numbers them
_FLAGS = ["-O3", "-shared", "-fPIC", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
# the first that the compiler knows; GCC takes vectors of 512 bits only when it is asked to
_FASTER = (
    ["-march=native", "-mprefer-vector-width=512", "-fopenmp"],
    ["-march=native", "-fopenmp"],
    ["-march=native"],
    [],
)

log = logging.getLogger(__name__)


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
        ("decay", ctypes.c_float),
        ("first", ctypes.c_uint32),
        ("round_keys", ctypes.c_uint32 * 2),
    ]


class _Own(ctypes.Structure):
    """`Own` of the C."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("y", "x", "left", "right", "of")),
        *((name, ctypes.c_int64) for name in ("positions", "rows", "columns")),
        *((name, ctypes.c_int32) for name in ("rank", "type", "threads")),
        ("c", ctypes.c_float),
    ]


def serves(*tensors: Tensor | None) -> bool:
    """Whether the kernel takes these tensors: contiguous ones on a CPU in 16 or 32 bits, on a
    machine that has a C compiler."""
    return (
        all(
            t is None or (t.device.type == "cpu" and t.dtype in _TYPES and t.is_contiguous())
            for t in tensors
        )
        and library() is not None
    )


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
    """Compute out = decay theta + step + A B + sum_i c_i z_i / sqrt(h), summed in fp32 and rounded
    once, for tensors that `serves` takes.

    Args:
        out, theta, keys, factors, decay, round_key, rademacher, curvature: as for `gpu.shift`;
            theta is of out's type.
        step: fp32, added to the sum; None stands for zeros.
        product: A (rows, r) and B (r, columns) in fp32 for a matrix; None stands for zeros.
        first: the number of the first element in its parameter.
    """
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
        type=_TYPES[out.dtype],
        curvature_type=0 if curvature is None else _TYPES[curvature.dtype],
        terms=len(factors),
        rademacher=rademacher,
        stochastic=round_key is not None,
        threads=torch.get_num_threads(),
        decay=decay,
        first=first,
        round_keys=(ctypes.c_uint32 * 2)(*(round_key or (0, 0))),
    )
    _loaded().shift(ctypes.byref(arguments))


def draw(out: Tensor, keys: Tensor, *, rademacher: bool = False) -> None:
    """Write z under each key into a row of out, fp32 (rows, elements); the keys are (rows, 2),
    int32."""
    keys = keys.contiguous()
    _loaded().draw(
        ctypes.c_void_p(out.data_ptr()),
        ctypes.c_int64(out.shape[0]),
        ctypes.c_int64(out.shape[1]),
        ctypes.c_void_p(keys.data_ptr()),
        ctypes.c_int32(rademacher),
        ctypes.c_int32(torch.get_num_threads()),
    )


def add_own(y: Tensor, x: Tensor, a: Tensor, b: Tensor, of: Tensor, c: float) -> None:
    """y_p <- y_p + c A_e (B_e^T x_p) at every position p, of example e = of[p]; summed in fp32 and
    rounded once.

    Args:
        y: (positions, m), which `serves` takes.
        x: (positions, n), of y's type; `serves` takes it.
        a, b: A (G, m, r) and B (G, n, r), in fp32.
        of: (positions,), integers.
        c: the length.
    """
    left, right, of = (t.contiguous() for t in (a.mT, b.mT, of))
    arguments = _Own(
        *(t.data_ptr() for t in (y, x, left, right, of)),
        *(len(y), y.shape[-1], x.shape[-1]),
        *(left.shape[1], _TYPES[y.dtype], torch.get_num_threads()),
        c,
    )
    _loaded().add_own(ctypes.byref(arguments))


def _words(keys: Sequence[tuple[int, int]]) -> Any:
    return (ctypes.c_uint32 * (2 * len(keys)))(*(word for pair in keys for word in pair))


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _loaded() -> ctypes.CDLL:
    found = library()
    assert found is not None, "serves() was not asked"
    return found


def maker() -> str | None:
    """Return what has made the noise of large models on this process's CPU: "C", or "PyTorch" where
    nothing could be compiled, whose last digits differ; None where there was no such model."""
    if not library.cache_info().currsize:
        return None
    return "PyTorch" if library() is None else "C"


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernel, or None on a machine that cannot compile it, which is said once."""
    try:
        return _compiled_or_kept()
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        log.warning(
            "the noise kernel cannot be compiled here, so that noise is made in PyTorch, five times"
            " as slowly: %s",
            one_line(error),
        )
        return None


def _compiled_or_kept() -> ctypes.CDLL:
    compiler = os.environ.get("CC") or next(filter(shutil.which, ("cc", "gcc", "clang")), None)
    if compiler is None:
        raise RuntimeError("there is no C compiler (CC names one)")
    name = f"noise-{_identity(compiler)}.so"
    try:
        path = cache_folder() / "kernels" / name
        if not path.is_file():
            with written_whole(path) as temporary:
                _compile(compiler, temporary)
        return ctypes.CDLL(str(path))
    except (OSError, RuntimeError):  # no home, or one that nobody may write or load from
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, name)
            _compile(compiler, path)
            return ctypes.CDLL(str(path))  # the file may go once it is loaded


def _compile(compiler: str, path: Path) -> None:
    said = ""
    for faster in _FASTER:
        command = [*compiler.split(), *_FLAGS, *faster, *map(str, _SOURCES), "-o", str(path), "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        if done.returncode == 0:
            return
        said = done.stderr
    raise RuntimeError(said.strip().partition("\n")[0] or f"{compiler} failed")


def _identity(compiler: str) -> str:
    """Digits that stand for the source, the flags, the compiler and the processor: a cache may be
    shared by machines that differ."""
    version = subprocess.run(
        [*compiler.split(), "--version"], capture_output=True, text=True, timeout=60
    ).stdout
    cpuinfo = Path("/proc/cpuinfo")
    processor = platform.processor()
    if cpuinfo.is_file():
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        processor += "".join(sorted({w for w in lines if w.lower().startswith(("flags", "feat"))}))
    sources = [path.read_text(encoding="utf-8") for path in (*_SOURCES, _HEADER)]
    told = [*sources, repr((_FLAGS, _FASTER)), version, processor]
    return hashlib.sha256("\0".join([*told, platform.machine()]).encode()).hexdigest()[:16]
