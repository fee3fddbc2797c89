"""Where the weights of a perturbed pass lie: buffers that are used again and, on a GPU, are filled ahead of time.

Noise keeps a GPU's arithmetic units busy, matrix products its tensor cores. So the weights of the next modules are made
on a second stream while this one runs, in the order in which an earlier pass asked for them, some modules a launch.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from bszo.perturb.gpu import Scalars, Table

SLOTS = 3  # groups of parameters that are in memory at a time: one runs, two are made
_ALIGNED = 512  # bytes


class Reused:
    """Buffers that no module uses now. Fresh pages would cost a CPU more than the noise that fills them."""

    def __init__(self) -> None:
        self.spare: dict[tuple[int, torch.dtype], list[Tensor]] = {}

    def take(self, theta: Tensor) -> Tensor:
        """A contiguous buffer of theta's shape and type."""
        spare = self.spare.get((theta.numel(), theta.dtype))
        if spare:
            return spare.pop().view(theta.shape)
        return torch.empty(theta.shape, dtype=theta.dtype, device=theta.device)

    def give_back(self, buffer: Tensor) -> None:
        """No work that is not queued yet reads it."""
        self.spare.setdefault((buffer.numel(), buffer.dtype), []).append(buffer)


class Ahead:
    """The perturbed parameters of a pass, in an order that is known: theta + sum_i c_i z_i in SLOTS buffers in turn.

    Consecutive parameters form a group, as large as the largest parameter that the model has several of; a group is one
    launch. It is made as soon as the group SLOTS places before it has been given back. A parameter that is alone of its
    size (an output layer) is in no group if it is larger.

    Extra memory: SLOTS groups.

    Args:
        params: all parameters, on one GPU.
        order: their numbers, as a pass asks for them; one that runs twice stands there twice.
    """

    def __init__(self, params: Sequence[Tensor], order: Sequence[int]) -> None:
        self.params, self.order = params, list(order)
        self.room = _room([params[i].nbytes for i in order])
        self.sequence = [i for i in order if params[i].nbytes <= self.room]
        self.groups = self._grouped()  # [start, stop) in the sequence
        self.of = [g for g, (start, stop) in enumerate(self.groups) for _ in range(start, stop)]
        device = params[order[0]].device
        self.stream = torch.cuda.Stream(device)
        self.memory = torch.empty(min(SLOTS, len(self.groups)) * self.room, dtype=torch.uint8, device=device)
        self.values = self._placed()
        self.table = Table([params[i].data for i in self.sequence], self.values, self.sequence)
        self.ready = [torch.cuda.Event() for _ in self.groups]
        self.whole = True  # every group of the last pass came back
        self.active = False  # between `begin` and `end`

    def fits(self, params: Sequence[Tensor]) -> bool:
        """Whether theta still lies where it lay, and no view of a buffer lives on."""
        return self.whole and self.table.addresses == [params[i].data_ptr() for i in self.sequence]

    def begin(self, scalars: Scalars) -> None:
        """Start on the first groups; theta must not move until `end`."""
        self.scalars, self.here = scalars, torch.cuda.current_stream(self.memory.device)
        self.active, self.at = True, 0  # place in the sequence of what is asked for next
        self.left = [stop - start for start, stop in self.groups]  # of each group, not given back yet
        self.made = 0  # groups that have been launched
        self.stream.wait_stream(self.here)
        for _ in range(min(SLOTS, len(self.groups))):
            self._make()

    def take(self, i: int) -> tuple[Tensor, int] | None:
        """Parameter i, perturbed, and its group; None if it is not what was foreseen."""
        if self.at == len(self.sequence) or self.sequence[self.at] != i or self.of[self.at] >= self.made:
            return None
        place, group = self.at, self.of[self.at]
        if place == self.groups[group][0]:
            self.here.wait_event(self.ready[group])
        self.at += 1
        return self.values[place], group

    def give_back(self, group: int) -> None:
        """No work that is not queued yet reads one parameter of the group."""
        self.left[group] -= 1
        if self.left[group] == 0 and self.made == group + SLOTS < len(self.groups):
            self.stream.wait_event(self.here.record_event())
            self._make()

    def end(self) -> None:
        """Theta may move again."""
        self.active = False
        self.here.wait_stream(self.stream)
        self.whole = not any(self.left)

    def _make(self) -> None:
        start, stop = self.groups[self.made]
        with torch.cuda.stream(self.stream):
            self.table.launch(start, stop, self.scalars)
        self.ready[self.made].record(self.stream)
        self.made += 1

    def _grouped(self) -> list[tuple[int, int]]:
        starts, used = [], self.room
        for place, i in enumerate(self.sequence):
            size = _aligned(self.params[i].nbytes)
            if used + size > self.room:
                starts.append(place)
                used = 0
            used += size
        return list(pairwise([*starts, len(self.sequence)]))

    def _placed(self) -> list[Tensor]:
        values = []
        for g, (start, stop) in enumerate(self.groups):
            at = g % SLOTS * self.room
            for i in self.sequence[start:stop]:
                p = self.params[i]
                values.append(self.memory[at : at + p.nbytes].view(p.dtype).view(p.shape))
                at += _aligned(p.nbytes)
        return values


def _aligned(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED


def _room(sizes: Sequence[int]) -> int:
    """Bytes of a group: the largest size that occurs twice, and a little for the vectors beside it."""
    ordered = sorted(sizes)
    return _aligned(max((a for a, b in pairwise(ordered) if a == b), default=ordered[-1]) + (1 << 20))
