"""What the hooks of torch's modules see: which modules call them, and which read a weight only row
by row."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn


def owners(module: nn.Module, index: Mapping[int, int]) -> dict[nn.Module, list[int]]:
    """The modules that call hooks and own parameters, and the numbers of these.

    Args:
        module: with all inside it; compiled ones and scripted ones call no hooks of their parts.
        index: {id of a parameter: its number}.
    """
    found: dict[nn.Module, list[int]] = {}
    # torch.compile(module); not module.compile(), which calls them
    if hasattr(module, "_orig_mod"):
        return found
    for owner in module.modules():
        owned = [index[id(p)] for p in owner._parameters.values() if id(p) in index]
        if owned and not isinstance(owner, torch.jit.ScriptModule):
            found[owner] = owned
    return found


def is_lookup(module: nn.Module) -> bool:
    """A plain embedding, of which nothing but the rows that are asked for is read."""
    if type(module) is not nn.Embedding or "forward" in vars(module):  # accelerate wraps forward
        return False
    if module._forward_pre_hooks:  # may read the weight
        return False
    # spectral_norm, pruning: weight_orig
    return module.max_norm is None and module._parameters.keys() == {"weight"}


@contextmanager
def every_module_runs() -> Iterator[None]:
    """torch's encoder layers have a fused path that reads the weights of modules which it does not
    run; off, and at theta too, so that losses that are subtracted from one another come from the
    same kernels."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)
