"""Pieces of tensors that stay in a processor's cache while an update reads and writes them."""

from collections.abc import Iterator

import torch
from torch import Tensor

EACH = 1 << 15  # elements a thread: of five tensors in fp32 640 KB


def pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield flat views of the same elements of each tensor, piece by piece.

    A chain of operations on whole tensors moves each of them through memory once an operation; on
    pieces, once in all. The numbers are the same, for no operation looks at a neighbour. On a GPU,
    and where a tensor is not contiguous, all of them are one piece.

    Args:
        tensors: of one shape, on one device.
    """
    if tensors[0].is_cuda or not all(t.is_contiguous() for t in tensors):
        yield tensors
        return
    flat = [t.view(-1) for t in tensors]
    step = EACH * torch.get_num_threads()
    for start in range(0, flat[0].numel(), step):
        yield tuple(t[start : start + step] for t in flat)
