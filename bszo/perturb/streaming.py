"""Streaming perturbation: a module's perturbed weights exist only while it runs, and theta is never written."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from bszo.perturb.ahead import Ahead, Buffers, Reused
from bszo.perturb.directions import Directions
from bszo.perturb.inplace import Copies
from bszo.perturb.noise import Terms

log = logging.getLogger(__name__)


class Streaming:
    """Exact: hooks swap a parameter's data for theta + sum_i c_i z_i while a module that owns it runs.

    Extra memory: the weights of the modules that run inside one another, which is one layer's in practice; on a GPU,
    where the next ones are made meanwhile, those of the next two or three layers. Tied weights are perturbed alike wherever they run. Parameters that are used while no owner of theirs runs (a
    functional call in some other module) are found in the first perturbed pass; it is repeated with copies of them.
    """

    def __init__(self, params: list[Tensor], module: nn.Module) -> None:
        self.params = params
        self.index = {id(p): i for i, p in enumerate(params)}
        self.owners: dict[nn.Module, list[int]] = {}
        for owner in module.modules():
            owned = [self.index[id(p)] for p in owner._parameters.values() if id(p) in self.index]
            if owned:
                self.owners[owner] = owned
        reached = {i for owned in self.owners.values() for i in owned}
        self.copies = Copies(params, [i for i in range(len(params)) if i not in reached])
        self.watched = False  # has a perturbed pass been watched for uses that the hooks miss?
        self.watch: _Watch | None = None  # while one is
        self.theta: dict[int, Tensor] = {}  # what the swapped parameters hold when nothing runs
        self.running = [0] * len(params)  # owners of each parameter that run now
        devices = {p.device for p in params}
        self.reused = self.buffers = Reused(params)
        self.ahead = Ahead(params, *devices) if len(devices) == 1 and params[0].is_cuda else None

    @contextmanager
    def at(self, directions: Directions, terms: Terms) -> Iterator[None]:
        if not terms:
            yield
            return
        missed: set[int] = set()
        self.buffers = self.ahead if self.ahead is not None and directions.any_stream else self.reused
        with ExitStack() as stack:
            stack.enter_context(self.copies.at(directions, terms))
            stack.callback(self._restore_all)
            stack.enter_context(self._filled(self.buffers, directions, terms))
            for owner, owned in self.owners.items():
                if _is_lookup(owner):
                    continue
                if not self.watched or any(directions.own(i, terms) for i in owned):
                    self._hook_swap(owner, owned, directions, terms, stack)
            self._hook_lookups(directions, terms, stack)
            if not self.watched:
                self.watch = stack.enter_context(_Watch(self, missed))
                stack.callback(setattr, self, "watch", None)
            yield
        if missed:
            log.info("%d parameters are used outside the modules that own them: perturbed as copies", len(missed))
            owners = {m: [i for i in owned if i not in missed] for m, owned in self.owners.items()}
            self.owners = {m: owned for m, owned in owners.items() if owned}
            self.copies = Copies(self.params, sorted({*self.copies.indices, *missed}))
        self.watched = not missed

    def home(self, directions: Directions) -> None:
        """Nothing to do: theta was never moved."""

    def _hook_swap(self, owner: nn.Module, owned: list[int], directions: Directions, terms: Terms,
                   stack: ExitStack) -> None:
        def swap_in(module: nn.Module, args: Any) -> None:
            for i in owned:
                self.running[i] += 1
                # an outer owner may have swapped it already
                if self.running[i] == 1 and directions.own(i, terms):
                    with self._unwatched():
                        self.theta[i], self.params[i].data = self.params[i].data, self.buffers.get(i)

        def swap_out(module: nn.Module, args: Any, output: Any) -> None:
            for i in owned:
                if self.running[i] == 1 and i in self.theta:
                    self._give_back(i, self.params[i].data, output)
                    self.params[i].data = self.theta.pop(i)
                self.running[i] -= 1

        stack.callback(owner.register_forward_pre_hook(swap_in, prepend=True).remove)  # others may read the weights
        stack.callback(owner.register_forward_hook(swap_out).remove)

    @contextmanager
    def _filled(self, buffers: Buffers, directions: Directions, terms: Terms) -> Iterator[None]:
        def make(i: int, buffer: Tensor) -> None:
            directions.shift(self.theta.get(i, self.params[i].data), i, terms, out=buffer)

        buffers.begin(make)
        try:
            yield
        finally:
            buffers.end()

    def _give_back(self, i: int, buffer: Tensor, output: Any) -> None:
        storage, end = buffer.data_ptr(), buffer.data_ptr() + buffer.nbytes
        tensors = [value for value in _flat((output,)) if isinstance(value, Tensor)]
        if all(not storage <= value.data_ptr() < end for value in tensors):  # else a view of it lives on
            self.buffers.give_back(i, buffer)

    def _hook_lookups(self, directions: Directions, terms: Terms, stack: ExitStack) -> None:
        """A plain embedding reads few of its rows, so only those are perturbed: the same numbers, far fewer.

        The hooks are global, for a closure may look rows up with a module of its own that shares a parameter: an
        output layer of which it needs a few words.
        """
        def parameter_of(module: nn.Module) -> int | None:
            i = self.index.get(id(module._parameters["weight"])) if _is_lookup(module) else None
            return None if i is None or i in self.copies.indices else i

        def enter(module: nn.Module, args: Any) -> None:
            if (i := parameter_of(module)) is not None:
                self.running[i] += 1

        def look_up(module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor | None:
            if (i := parameter_of(module)) is None:
                return None
            self.running[i] -= 1
            if not directions.own(i, terms):
                return None
            ids = args[0] if args else kwargs["input"]
            with self._unwatched():
                rows, place = torch.unique(ids, return_inverse=True)
                theta = self.theta.get(i, self.params[i].data)  # an outer owner of a tied weight may have swapped it
                return directions.shift_rows(theta, i, rows, terms)[place]

        stack.callback(register_module_forward_pre_hook(enter).remove)
        handle = register_module_forward_hook(look_up, with_kwargs=True)  # type: ignore[arg-type]  # it may replace
        stack.callback(handle.remove)

    @contextmanager
    def _unwatched(self) -> Iterator[None]:
        """The engine's own work: a compiled kernel would be compiled again for a watch that is gone next time, and a
        rule for directions may read the parameters."""
        if self.watch is None:
            yield
            return
        self.watch.__exit__(None, None, None)
        try:
            yield
        finally:
            self.watch.__enter__()

    def _restore_all(self) -> None:
        """After the closure, whether it returned or raised in the middle of a module."""
        for i, theta in self.theta.items():
            self.params[i].data = theta
        self.theta.clear()
        self.running = [0] * len(self.params)


def _is_lookup(module: nn.Module) -> bool:
    plain = type(module) is nn.Embedding and "forward" not in vars(module)  # accelerate wraps forward
    return plain and module.max_norm is None and len(module._parameters) == 1


class _Watch(TorchFunctionMode):
    """Notes the parameters that reach an operation while none of their owners runs."""

    def __init__(self, engine: Streaming, missed: set[int]) -> None:
        super().__init__()
        self.engine, self.missed = engine, missed

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(isinstance(value, Tensor) for value in _flat((result,))):  # reading .dtype or .shape uses no values
            for value in _flat((*args, *(kwargs or {}).values())):
                i = self.engine.index.get(id(value))
                if i is not None and self.engine.running[i] == 0 and i not in self.engine.copies.indices:
                    self.missed.add(i)
        return result


def _flat(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, (tuple, list)):
            yield from _flat(value)
        elif isinstance(value, dict):
            yield from _flat(value.values())
        else:
            yield value
