"""Where a module's perturbed weights lie: buffers that are used again and, on a GPU, are filled ahead of time.

Noise keeps a GPU's arithmetic units busy, matrix products its tensor cores. So the weights of the next modules are made
on a second stream while this one runs, in the order in which the last pass asked for them.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Make = Callable[[int, Tensor], None]  # (parameter, buffer): fill the buffer with the parameter's perturbed values
DEPTH = 2.5  # how many of the largest repeated parameters fit into a GPU's buffer


class Buffers(Protocol):
    """Perturbed parameters of one pass, between `begin` and `end`."""

    def begin(self, make: Make) -> None: ...

    def get(self, i: int) -> Tensor:
        """Parameter i, perturbed; the current stream may read it."""
        ...

    def give_back(self, i: int, buffer: Tensor) -> None:
        """No work that is not queued yet reads it."""
        ...

    def end(self) -> None: ...


class Reused:
    """On a CPU: fresh pages would cost more than the noise that fills them."""

    def __init__(self, params: Sequence[Tensor]) -> None:
        self.params = params
        self.spare: dict[tuple[int, torch.dtype], list[Tensor]] = {}

    def begin(self, make: Make) -> None:
        self.make = make

    def get(self, i: int) -> Tensor:
        theta = self.params[i]
        spare = self.spare.get((theta.numel(), theta.dtype))
        buffer = spare.pop().view(theta.shape) if spare else torch.empty_like(theta, memory_format=torch.contiguous_format)
        self.make(i, buffer)
        return buffer

    def give_back(self, i: int, buffer: Tensor) -> None:
        self.spare.setdefault((buffer.numel(), buffer.dtype), []).append(buffer)

    def end(self) -> None:
        pass


@dataclass
class _Slot:
    """Bytes [start, stop) of the ring, taken by a parameter's values until the work before `free` is done."""

    start: int
    stop: int
    values: Tensor
    ready: torch.cuda.Event
    free: torch.cuda.Event | None = None


class Ahead:
    """On a GPU: a ring of bytes that a second stream fills as far ahead as it has room.

    Extra memory: DEPTH times the largest parameter of which the model has several of a size.
    """

    def __init__(self, params: Sequence[Tensor], device: torch.device) -> None:
        self.params, self.device = params, device
        self.stream = torch.cuda.Stream(device)
        self.order: list[int] = []  # what the last pass asked for
        self.ring = torch.empty(0, dtype=torch.uint8, device=device)

    def begin(self, make: Make) -> None:
        self.make, self.asked = make, list[int]()
        self.next = 0  # place in `order` of what is made next
        self.waiting: deque[tuple[int, _Slot]] = deque()  # made, not yet asked for
        self.slots: deque[_Slot] = deque()  # oldest first
        self.taken: dict[int, _Slot] = {}  # by address of their values
        self.top = 0
        self._fit()
        self.stream.wait_stream(torch.cuda.current_stream(self.device))  # theta as the last step left it
        self._go_on()

    def get(self, i: int) -> Tensor:
        self.asked.append(i)
        if self.waiting and self.waiting[0][0] == i:
            slot = self.waiting.popleft()[1]
            torch.cuda.current_stream(self.device).wait_event(slot.ready)
            self.taken[slot.values.data_ptr()] = slot
            self._go_on()
            return slot.values
        if self.waiting:  # another order than last time: what was made stays unused, and nothing more is foreseen
            self._forget()
        elif self.next < len(self.order) and self.order[self.next] == i:
            self.next += 1
        buffer = torch.empty_like(self.params[i], memory_format=torch.contiguous_format)
        self.make(i, buffer)
        self._go_on()
        return buffer

    def give_back(self, i: int, buffer: Tensor) -> None:
        slot = self.taken.pop(buffer.data_ptr(), None)
        if slot is not None:
            slot.free = torch.cuda.current_stream(self.device).record_event()
            self._go_on()

    def end(self) -> None:
        torch.cuda.current_stream(self.device).wait_stream(self.stream)  # theta may be moved now
        self.order = self.asked

    def _go_on(self) -> None:
        """Make what is asked for next, as long as there is room for it."""
        while self.next < len(self.order):
            i = self.order[self.next]
            slot = self._room(i)
            if slot is None:
                return
            with torch.cuda.stream(self.stream):
                self.make(i, slot.values)
                slot.ready.record(self.stream)
            self.waiting.append((i, slot))
            self.next += 1

    def _room(self, i: int) -> _Slot | None:
        theta = self.params[i]
        size = -(-theta.numel() * theta.element_size() // 512) * 512
        if size > self.ring.numel() // 2:
            return None
        start = self.top if self.top + size <= self.ring.numel() else 0
        while any(slot.start < start + size and start < slot.stop for slot in self.slots):
            if self.slots[0].free is None:
                return None
            self.stream.wait_event(self.slots.popleft().free)  # type: ignore[arg-type]
        values = self.ring[start : start + theta.numel() * theta.element_size()].view(theta.dtype).view(theta.shape)
        slot = _Slot(start, start + size, values, torch.cuda.Event())
        self.slots.append(slot)
        self.top = start + size
        return slot

    def _fit(self) -> None:
        """Size the ring once an order is known."""
        sizes = sorted(p.numel() * p.element_size() for p in (self.params[i] for i in self.order))
        largest = max((a for a, b in zip(sizes, sizes[1:], strict=False) if a == b), default=0)
        wanted = int(DEPTH * largest)
        if wanted > self.ring.numel():
            self.ring = torch.empty(wanted, dtype=torch.uint8, device=self.device)

    def _forget(self) -> None:
        self.next = len(self.order)
        self.waiting.clear()
