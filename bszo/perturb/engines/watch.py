"""Watch: what reaches torch's operations while a closure runs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import (
    TorchFunctionMode,
    _get_current_function_mode_stack,
    _pop_mode,
    _push_mode,
)

_READERS = (Tensor.item, Tensor.tolist, Tensor.__float__, Tensor.__int__, Tensor.__bool__)


class Watch(TorchFunctionMode):
    """While entered, the watch tells `called` of every operation, and shows `seen` all arguments of
    those that return a tensor or a tensor's values."""

    def __init__(
        self, seen: Callable[[Any], None], called: Callable[[Any, Any, Any], None]
    ) -> None:
        super().__init__()
        self.seen, self.called = seen, called

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.compiler.is_compiling():  # a graph must not hold the watch
            return func(*args, **(kwargs or {}))
        self.called(func, args, kwargs or {})
        result = func(*args, **(kwargs or {}))
        # reading .dtype or .shape uses no values
        if func in _READERS or any(isinstance(value, Tensor) for value in flat((result,))):
            for value in flat((*args, *(kwargs or {}).values())):
                self.seen(value)
        return result

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Look away for a while, as do the modes that the closure has entered since. In a thread of
        the closure's own, which has no mode of ours, nothing happens."""
        modes = _get_current_function_mode_stack()
        above = modes[modes.index(self) :] if self in modes else []
        for _ in above:
            _pop_mode()
        try:
            yield
        finally:
            for mode in above:
                _push_mode(mode)


def flat(values: Any) -> Iterator[Any]:
    """Yield the leaves of nested tuples, lists and dictionaries."""
    for value in values:
        if isinstance(value, (tuple, list)):
            yield from flat(value)
        elif isinstance(value, dict):
            yield from flat(value.values())
        else:
            yield value
