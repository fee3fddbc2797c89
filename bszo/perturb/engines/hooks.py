"""Hooks of torch's modules: when they are called, what they see, and which reads a weight row by
row."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._functorch import (
    peek_interpreter_stack,  # pyright: ignore[reportAttributeAccessIssue, reportMissingImports]
)
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook


class Hooks:
    """One hook before and one after every module that runs, but for compiled graphs.

    A graph must not hold the hooks: they are gone once it is traced. So `torch.compile` sees hooks
    that do nothing, and around a module that `torch.compile` returned they are taken away.

    Args:
        enter: called with (module, positional arguments).
        leave: called with (module, positional arguments, keyword arguments, output); what it
            returns, if not None, stands for the output.
        pause: () -> a context in which a compiled module runs.
    """

    def __init__(
        self,
        enter: Callable[..., None],
        leave: Callable[..., Any],
        pause: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self.enter, self.leave, self.pause = enter, leave, pause
        self.handles: list[Any] = []

    def register(self) -> None:
        self.handles = [
            register_module_forward_pre_hook(self._before),
            register_module_forward_hook(self._after, with_kwargs=True),  # type: ignore[arg-type]
        ]

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()
        self.handles.clear()

    def _before(self, module: nn.Module, args: Any) -> None:
        if torch.compiler.is_compiling():
            return
        if is_compiled(module):
            self.remove()
            back = ExitStack()
            back.callback(self.register)
            back.enter_context(self.pause())
            hook = module.register_forward_hook(lambda *_: back.close(), always_call=True)
            back.callback(hook.remove)
        else:
            self.enter(module, args)

    def _after(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        return None if torch.compiler.is_compiling() else self.leave(module, args, kwargs, output)


def owners(module: nn.Module, index: Mapping[int, int]) -> dict[nn.Module, list[int]]:
    """Return the modules that call hooks and own parameters, with the numbers of these parameters.

    Args:
        module: the module, with all inside it. Compiled and scripted ones call no hooks of their
            parts.
        index: {id of a parameter: its number}.
    """
    found: dict[nn.Module, list[int]] = {}
    compiled = {
        id(part) for whole in module.modules() if is_compiled(whole) for part in whole.modules()
    }
    for owner in module.modules():
        owned = [index[id(p)] for p in owner._parameters.values() if id(p) in index]
        if owned and id(owner) not in compiled and not isinstance(owner, torch.jit.ScriptModule):
            found[owner] = owned
    return found


def linear_layers(
    module: nn.Module,
    index: Mapping[int, int],
    others: Callable[[nn.Module], bool] = lambda _: False,
) -> dict[nn.Module, int]:
    """Return the linear layers that call hooks, with the numbers of their weights.

    They are `nn.Linear`, those of adapters among them, and what `others` says. A weight that
    another kind of module owns too, such as an embedding, is none, nor is one that is made of other
    parameters at every pass (pruning, weight normalisation).

    Args:
        module, index: see `owners`.
        others: whether a module of another class is one too.
    """
    every = owners(module, index)
    linear = [m for m in every if isinstance(m, nn.Linear) or others(m)]
    elsewhere = {i for m in every.keys() - set(linear) for i in every[m]}
    weights = {m: index.get(id(m._parameters.get("weight"))) for m in linear}
    return {m: i for m, i in weights.items() if i is not None and i not in elsewhere}


def is_compiled(module: nn.Module) -> bool:
    """Whether a module runs as a compiled graph, which calls no hook of its parts: it came from
    `torch.compile(module)`, or `module.compile()` was called."""
    return "_orig_mod" in module._modules or module._compiled_call_impl is not None


def is_differentiated() -> bool:
    """Whether what runs now may be differentiated or mapped: gradients are on, or a transform of
    `torch.func` is at work."""
    return torch.is_grad_enabled() or peek_interpreter_stack() is not None


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor's values lie at its address: no sparse, jagged, fake or wrapped one."""
    return type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided


def is_lookup(module: nn.Module) -> bool:
    """Whether a module is a plain embedding, which reads nothing but the rows it is asked for."""
    if type(module) is not nn.Embedding or "forward" in vars(module):  # accelerate wraps forward
        return False
    if module._forward_pre_hooks:  # may read the weight
        return False
    # spectral_norm, pruning: weight_orig
    return module.max_norm is None and module._parameters.keys() == {"weight"}


@contextmanager
def every_module_runs() -> Iterator[None]:
    """Turn off the fused path of torch's encoder layers, which reads the weights of modules that it
    does not run. It is off at theta too, so that losses that are subtracted from one another come
    from the same kernels."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)
