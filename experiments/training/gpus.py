"""GPUs of a machine: each process of a sweep takes one that no other run holds."""

import logging
import os
import tempfile
from pathlib import Path

import torch
from filelock import FileLock, Timeout

log = logging.getLogger("experiments")

_held: list[FileLock] = []  # until the process ends, whatever ends it: the system frees them


def claim(folder: Path | None = None) -> int:
    """Make a GPU that no other run on this machine holds the current one, and hold it.

    Where every GPU is held, this run shares one.

    Args:
        folder: of the locks; None is the system's folder for temporary files.

    Returns:
        Its number among those that CUDA shows to this process.
    """
    count = torch.cuda.device_count()
    if count <= 1 or _held:
        return torch.cuda.current_device() if count else 0
    chosen = os.getpid() % count
    for number in range(count):
        # its number depends on CUDA_VISIBLE_DEVICES
        uuid = torch.cuda.get_device_properties(number).uuid
        lock = FileLock(
            (folder or Path(tempfile.gettempdir())) / f"bszo-gpu-{uuid}.lock", mode=0o666
        )
        try:
            lock.acquire(blocking=False)
        except (Timeout, PermissionError):
            continue
        _held.append(lock)
        chosen = number
        break
    else:
        log.info("each of %d GPUs is taken by another run: sharing number %d", count, chosen)
    torch.cuda.set_device(chosen)
    return chosen
