"""Parameters of a module: their groups for an optimizer, and their fingerprint for a record."""

import hashlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from bszo.errors import ModelError
from bszo.models.quantized import parts_of

NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The trainable parameters as `params=` of an optimizer, in two groups: matrices decay, biases
    and norms do not.

    Frozen parameters are left out, tied ones come once, and with `weight_decay` 0 there is a single
    group.

    Raises:
        ModelError: no parameter is trainable.
    """
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not trainable:
        raise ModelError("the model has no trainable parameter: all have requires_grad=False")
    if weight_decay == 0:
        return [{"params": trainable, "weight_decay": 0.0}]
    norms = {
        id(p)
        for part in module.modules()
        if isinstance(part, NORMS)
        for p in part.parameters(recurse=False)
    }
    plain = [p for p in trainable if p.ndim < 2 or id(p) in norms]
    decayed = [p for p in trainable if p.ndim >= 2 and id(p) not in norms]
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def weights_fingerprint(module: nn.Module) -> str:
    """`tensors_fingerprint` of every parameter in the order of their names; a tied one counts
    once, and a quantised one as its integers and its scales."""
    named = sorted(module.named_parameters(), key=lambda item: item[0])
    return tensors_fingerprint(part for name, value in named for part in parts_of(name, value))


def tensors_fingerprint(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256, as 64 hex digits, over name, dtype, shape and raw bytes of each tensor, in order.

    One tensor at a time is copied from its device.
    """
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
