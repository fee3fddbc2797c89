"""The library that is compiled from the C of this folder: once on a machine, in a second, and kept
in the cache."""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from bszo.cache import cache_folder
from bszo.errors import one_line
from bszo.files import written_whole

FORMATS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}  # as formats.h numbers them
_SOURCES = [Path(__file__).with_name(name) for name in ("noise.c", "own.c")]
_HEADER = Path(__file__).with_name("formats.h")
_FLAGS = ["-O3", "-shared", "-fPIC", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
# the first that the compiler knows; GCC takes vectors of 512 bits only when it is asked to
_FASTER = (
    ["-march=native", "-mprefer-vector-width=512", "-fopenmp"],
    ["-march=native", "-fopenmp"],
    ["-march=native"],
    [],
)

log = logging.getLogger(__name__)


def serves(*tensors: Tensor | None) -> bool:
    """Whether the library takes these tensors: contiguous ones on a CPU in 16 or 32 bits, on a
    machine that has a C compiler."""
    return (
        all(
            t is None or (t.device.type == "cpu" and t.dtype in FORMATS and t.is_contiguous())
            for t in tensors
        )
        and library() is not None
    )


def loaded() -> ctypes.CDLL:
    """The library, of which `serves` has said that it is there."""
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
            "the noise kernel cannot be compiled here, so that noise is made in PyTorch, several"
            " times as slowly: %s",
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
