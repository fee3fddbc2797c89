"""Parameters on a disk instead of in memory, for a model that is larger than memory.

They stand in one file, of which each tensor is a piece that the kernel reads when a module asks for
it, and drops or writes back when memory is short. Nothing else changes: the numbers are the same to
the bit, and an optimizer moves the parameters in place as it does in memory.

The file has no name. It is gone with the process, however that ends, so that no later run can begin
with parameters of which a part has moved and a part has not: a run goes on from its checkpoint.
"""

import mmap
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bszo.errors import ModelError
from bszo.models.weights import Stored

_BLOCK = 1 << 20  # bytes that are written at a time
_STORE = "_disk_tensors"  # attribute of a parameter that stands on a disk


class DiskTensors:
    """Tensors whose values are a file's.

    Args:
        folder: of the file; made where it is missing. A folder in memory (a tmpfs such as /tmp
            often is) saves none.

    Raises:
        ModelError: no file can be made there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - tensors outlive a block
        except OSError as error:
            raise ModelError(
                f"model.offload={folder}: no file can be made there ({error.strerror}); a folder of"
                " a disk with room for the parameters is needed"
            ) from error
        self._size = 0

    def empty(self, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        """A new tensor, zero everywhere.

        Its room is taken at once, so that a disk that is full says so here and not amid a step.

        Raises:
            ModelError: the disk has no room for it.
        """
        if not shape.numel():
            return torch.empty(shape, dtype=dtype)
        length = shape.numel() * dtype.itemsize
        try:
            self._take(length)
        except OSError as error:
            raise ModelError(
                f"model.offload={self.folder}: has no room for {length:,} bytes more"
                f" ({error.strerror})"
            ) from error
        piece = mmap.mmap(self._file.fileno(), length, offset=self._size)  # shared with the file
        self._size += -(-length // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        return torch.frombuffer(piece, dtype=dtype).view(shape)

    def _take(self, length: int) -> None:
        """Have the file hold so many bytes more, all zero, in blocks of the disk that are its."""
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self._file.fileno(), self._size, length)
            return
        self._file.seek(self._size)  # as on macOS
        for start in range(0, length, _BLOCK):
            self._file.write(bytes(min(_BLOCK, length - start)))
        self._file.flush()


@torch.no_grad()
def move_to_disk_(module: nn.Module, folder: Path, dtype: torch.dtype) -> None:
    """Move every parameter of a module, in its order, to a file in `folder`, as `dtype`.

    One parameter at a time is in memory. Tied parameters stay tied, and buffers stay where they
    are.

    Example:
        >>> import tempfile
        >>> net = torch.nn.Linear(2, 3)
        >>> before = net.weight.clone()
        >>> move_to_disk_(net, Path(tempfile.gettempdir()), torch.float32)
        >>> torch.equal(net.weight, before)
        True

    Raises:
        ModelError: a parameter is not on the CPU, or there is no room for all of them.
    """
    parameters = list(module.parameters())  # a tied one once
    if away := {p.device.type for p in parameters} - {"cpu"}:
        raise ModelError(
            f"model.offload={folder}: is for parameters that a CPU reads, and these are on"
            f" {', '.join(sorted(away))}; device=cpu is valid"
        )
    store = DiskTensors(folder)
    for parameter in parameters:
        parameter.data = store.empty(parameter.shape, dtype).copy_(parameter)
        setattr(parameter, _STORE, store)


def empty_like(parameter: Tensor) -> Tensor:
    """A tensor for a copy of a parameter: on the disk where the parameter is there, else in CPU
    memory.

    Raises:
        ModelError: the disk has no room for it.
    """
    store: DiskTensors | None = getattr(parameter, _STORE, None)
    if store is None:
        return torch.empty_like(parameter, device="cpu")
    return store.empty(parameter.shape, parameter.dtype)


def check_offload(offload: str, device: str, device_map: Any, quantization: str) -> None:
    """ModelError where the parameters cannot stand on a disk."""
    given = {
        "device": device if device != "cpu" else None,
        "model.device_map": device_map,
        "model.quantization": quantization if quantization != "none" else None,
    }
    for key, value in given.items():
        if value is not None:
            raise ModelError(
                f"model.offload={offload}: keeps the parameters of a model that runs on a CPU, in"
                f" 16 or 32 bits, on a disk; it does not go with {key}={value}"
            )


def stored_type(stored: Mapping[str, Stored]) -> torch.dtype | None:
    """The type of a model's stored floats; None where there are several."""
    types = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    found = {tensor.dtype for tensor in stored.values()}
    return types.get(found.pop()) if len(found) == 1 else None


def type_buffers_(module: Any, auto: Any, dtype: torch.dtype, path: str) -> None:
    """Give the buffers of a module the types that they have where its parameters are `dtype`.

    Raises:
        ModelError: some parameters of this architecture have a type of their own, or a buffer is
            computed in the parameters' type, which casting it afterwards is not.
    """
    own = getattr(module, "_keep_in_fp32_modules", None)
    if own or getattr(module, "_keep_in_fp32_modules_strict", None):
        raise ModelError(
            f"model {path}: {type(module).__name__} keeps some of its parameters in float32, which"
            f" model.offload cannot; the type of its files, {module.dtype}, is valid"
        )
    with torch.device("meta"):
        twin = auto.from_config(module.config, dtype=dtype, trust_remote_code=False)
    types = {name: buffer.dtype for name, buffer in twin.named_buffers()}
    stored = module.state_dict().keys()
    for name, buffer in module.named_buffers():
        if buffer.is_floating_point() and buffer.dtype != types[name] and name not in stored:
            raise ModelError(
                f"model {path}: {type(module).__name__} computes {name} in its parameters' type,"
                f" which model.offload cannot; the type of its files, {module.dtype}, is valid"
            )
        buffer.data = buffer.to(types[name])
