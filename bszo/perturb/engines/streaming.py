"""Streaming: the exact engine for modules, whose perturbed weights exist only while they run."""

import logging
from collections.abc import Callable, Iterator, Set
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from bszo.perturb.directions.base import Directions
from bszo.perturb.engines.base import Engine
from bszo.perturb.engines.buffers import Groups, Reused
from bszo.perturb.engines.copies import Copies
from bszo.perturb.engines.hooks import (
    Hooks,
    every_module_runs,
    is_differentiated,
    is_lookup,
    is_plain,
    owners,
)
from bszo.perturb.engines.watch import Watch, flat
from bszo.perturb.noise import Terms
from bszo.perturb.noise.gpu import Table

log = logging.getLogger(__name__)


class Streaming(Engine):
    """Hooks swap a parameter's data for theta + sum_i c_i z_i while a module that owns it runs.

    Extra memory: on a CPU one buffer for each size that a parameter has, kept between passes (more
    where modules of one size run inside one another); on a GPU, where several parameters are made
    at a time, twice the largest size that several of them have, and a still larger one while it
    runs. Tied weights are perturbed alike wherever they run.

    A pass is taken again with a copy of the parameters that hooks alone do not serve, as are all
    passes that follow:

    - A parameter was used while no owner of it ran (a functional call in some other module).
    - No owner of it ran at all (a compiled or traced graph, a second closure).
    - Something is differentiated or mapped inside the closure (`enable_grad`, `torch.func`): the
      backward pass would read the parameter after its owner has run.

    Scripted and compiled modules, which call no hook of their parts, have copies from the start.

    Not seen are uses of a parameter beside its owner, which runs as well: a functional one that
    comes later than the first perturbed pass, one in a scripted function, one in another thread
    without gradients; and a view of its own weight that a module keeps beyond its run. `Copies` are
    right there too, but for a view that was taken before the step: it keeps theta's memory, to
    which the update alone is written.

    Args:
        params: all parameters, in the optimizer's order.
        module: the module that the closure runs.
    """

    def __init__(self, params: list[Tensor], module: nn.Module) -> None:
        self.params = params
        self.index = {id(p): i for i, p in enumerate(params)}
        self.owners = owners(module, self.index)
        reached = {i for owned in self.owners.values() for i in owned}
        self.copies = Copies(params, [i for i in range(len(params)) if i not in reached])
        self.watched = not reached  # has a watched pass shown nothing that the hooks miss?
        self.missed: set[int] = set()  # parameters that this pass used where hooks do not reach
        self.perturbed = False  # does this pass, or did the last one, perturb?
        self.watch: Watch | None = None  # while a pass is watched
        self.theta: dict[int, Tensor] = {}  # what the swapped parameters hold when nothing runs
        self.running = [0] * len(params)  # owners of each parameter that run now
        self.ran: set[int] = set()  # parameters of which an owner has run in this pass
        self.reused = Reused()
        self.order: list[int] = []  # parameters as the last pass swapped them
        self.groups: Groups | None = None  # on a GPU, once an order is known
        self.group: dict[int, int] = {}  # of the swapped parameters that were made in one

    @property
    def ready(self) -> bool:
        return self.watched

    @contextmanager
    def at(
        self, directions: Directions, terms: Terms, but: Set[int] = frozenset()
    ) -> Iterator[None]:
        """While active, the parameters read theta + sum_i c_i z_i. Those whose numbers are in `but`
        read theta where a module owns them, for the caller perturbs what that module answers; rows
        of them that are looked up are perturbed here."""
        self.missed.clear()
        self.ran.clear()
        self.perturbed = bool(terms)
        with ExitStack() as stack:
            stack.enter_context(every_module_runs())
            if not terms:
                yield
                return
            stack.enter_context(self.copies.at(directions, terms))
            if not self.owners:
                yield
                return
            stack.callback(self._restore_all)
            stack.enter_context(self._grouped(directions, terms))
            # two hooks for all modules: one on each, set and taken away every pass, would cost more
            # than the noise
            enter, leave = self._hooks(directions, terms, but)
            # before all others, which may read the weights
            hooks = Hooks(enter, leave, self.unwatched)
            stack.callback(hooks.remove)
            hooks.register()
            if not self.watched:
                self.watch = stack.enter_context(Watch(self._note_missed, self.doubts.called))
                stack.callback(setattr, self, "watch", None)
            yield

    def repair(self) -> bool:
        """Have copies, from now on, of what the last perturbed pass used as hooks do not serve;
        return whether there was any."""
        if not self.perturbed:
            return False
        missed = self.missed | set(range(len(self.params))) - self.ran - set(self.copies.indices)
        if missed:
            log.info(
                "%d parameters are not used by the modules that own them alone: perturbed as"
                " copies",
                len(missed),
            )
            kept = {m: [i for i in owned if i not in missed] for m, owned in self.owners.items()}
            self.owners = {m: owned for m, owned in kept.items() if owned}
            self.copies = Copies(self.params, sorted({*self.copies.indices, *missed}))
        self.watched = not missed
        return bool(missed)

    def _hooks(
        self, directions: Directions, terms: Terms, but: Set[int]
    ) -> tuple[Callable[..., None], Callable[..., Any]]:
        """What is done before and after any module runs."""
        moved = [bool(directions.own(i, terms)) for i in range(len(self.params))]
        swapped = [m and i not in but for i, m in enumerate(moved)]

        def enter(module: nn.Module, args: Any) -> None:
            differentiated = is_differentiated()
            if is_lookup(module):
                if (i := self._looked_up(module)) is not None:
                    self.running[i] += 1
                    self.ran.add(i)
                    if differentiated:
                        self.missed.add(i)
                return
            for i in self.owners.get(module, ()):
                self.running[i] += 1
                self.ran.add(i)
                if differentiated:  # the pass is taken again: no swap that a later read could miss
                    self.missed.add(i)
                elif self.running[i] == 1 and swapped[i]:  # else an outer owner has swapped it
                    p = self.params[i]
                    theta = p.data
                    with self.unwatched():
                        p.data = self._take(i, theta, directions, terms)
                    self.theta[i] = theta

        def leave(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Tensor | None:
            if is_lookup(module):
                if (i := self._looked_up(module)) is None:
                    return None
                self.running[i] -= 1
                if not moved[i] or i in self.missed:
                    return None
                ids = args[0] if args else kwargs["input"]
                return self._looked_up_rows(module, i, ids, directions, terms)
            owned = self.owners.get(module, ())
            if owned and any(
                isinstance(v, Tensor) and v.grad_fn is not None for v in flat((output,))
            ):
                self.missed.update(owned)  # its graph will read the weights after the module
            for i in owned:
                if self.running[i] == 1 and i in self.theta:
                    self._give_back(i, self.params[i].data, output)
                    self.params[i].data = self.theta.pop(i)
                self.running[i] -= 1
            return None

        return enter, leave

    @contextmanager
    def _grouped(self, directions: Directions, terms: Terms) -> Iterator[None]:
        """While active, a GPU makes several parameters with one launch, if the family can say them
        in numbers."""
        scalars, order, self.order = directions.scalars(terms), self.order, []
        if scalars is None:
            yield
            return
        if self.groups is not None and not self.groups.fits(self.params, order):
            self.groups = None
        if self.groups is None and order and Table.takes([self.params[i].data for i in order]):
            self.groups = Groups(self.params, order)
        if self.groups is None:
            yield
            return
        self.groups.begin(scalars)
        try:
            yield
        finally:
            self.groups.end()

    def _take(self, i: int, theta: Tensor, directions: Directions, terms: Terms) -> Tensor:
        made = None
        if directions.by_scalars(i):
            self.order.append(i)
            made = self.groups.take(i) if self.groups is not None else None
        if made is not None:
            buffer, self.group[i] = made
            return buffer
        return directions.shift(
            theta, i, terms, out=None if theta.is_cuda else self.reused.take(theta)
        )

    def _give_back(self, i: int, buffer: Tensor, output: Any) -> None:
        group = self.group.pop(i, None)
        start, stop = (
            self.groups.span if group is not None and self.groups is not None else _span(buffer)
        )
        if any(_may_hold(value, start, stop) for value in flat((output,))):
            return
        if group is not None and self.groups is not None:
            self.groups.give_back(group)
        elif not buffer.is_cuda:  # CUDA's allocator keeps what is free itself
            self.reused.give_back(buffer)

    def _note_missed(self, value: Any) -> None:
        """A value has reached an operation: note it if it is a parameter of which no owner runs."""
        i = self.index.get(id(value))
        if i is not None and self.running[i] == 0 and i not in self.copies.indices:
            self.missed.add(i)

    def _looked_up(self, module: nn.Module) -> int | None:
        """Return the parameter of a lookup: the model's own, or one that shares it, such as an
        output layer that needs few words."""
        i = self.index.get(id(module._parameters["weight"]))
        return None if i is None or i in self.copies.indices else i

    def _looked_up_rows(
        self, module: nn.Module, i: int, ids: Tensor, directions: Directions, terms: Terms
    ) -> Tensor:
        """A plain embedding's answer. It reads few of its rows, so only those are perturbed, with
        the same numbers."""
        with self.unwatched():
            # an outer owner of a tied weight may have swapped it
            theta = self.theta.get(i, self.params[i].data)
            if not is_plain(ids):  # jagged ids: torch itself knows how to look them up
                weight = directions.shift(theta, i, terms)
                return nn.functional.embedding(ids, weight, module.padding_idx)  # type: ignore[arg-type]
            rows, place = torch.unique(ids, return_inverse=True)
            return directions.shift_rows(theta, i, rows, terms)[place]

    def unwatched(self) -> AbstractContextManager[None]:
        """While active, the engine's own work is not watched: a compiled kernel would be compiled
        again for a watch that is gone next time, and a rule for directions may read the
        parameters."""
        return _WITHOUT if self.watch is None else self.watch.paused()

    def _restore_all(self) -> None:
        """Put theta back after the closure, though it may have raised inside a module."""
        for i, theta in self.theta.items():
            self.params[i].data = theta
        self.theta.clear()
        self.group.clear()
        self.running = [0] * len(self.params)


_WITHOUT = nullcontext()
_PLAIN = (int, float, str, type(None), torch.dtype, torch.device)


def _may_hold(value: Any, start: int, stop: int) -> bool:
    """Whether a value is a view of these addresses, or an object that cannot be looked into."""
    if not isinstance(value, Tensor):
        return not isinstance(value, _PLAIN)
    return not is_plain(value) or start <= value.data_ptr() < stop


def _span(buffer: Tensor) -> tuple[int, int]:
    """The first address of a tensor's memory, and the one after its last."""
    return buffer.data_ptr(), buffer.data_ptr() + buffer.nbytes
