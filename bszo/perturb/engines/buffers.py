"""Buffers for the weights of a perturbed pass: they are used again, and on a GPU they are filled in
groups, with one launch each."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from bszo.perturb.noise.gpu import Scalars, Table

_ALIGNED = 512  # bytes


class Reused:
    """Buffers that no module uses now, to be filled again: fresh pages would cost a CPU more than
    the noise that fills them."""

    def __init__(self) -> None:
        self.spare: dict[tuple[int, torch.dtype, torch.device], list[Tensor]] = {}

    def take(self, theta: Tensor) -> Tensor:
        """Return a contiguous buffer of theta's shape and type."""
        spare = self.spare.get((theta.numel(), theta.dtype, theta.device))
        if spare:
            return spare.pop().view(theta.shape)
        # the next closure may run outside the mode that this one runs in
        with torch.inference_mode(False):
            return torch.empty(theta.shape, dtype=theta.dtype, device=theta.device)

    def give_back(self, buffer: Tensor) -> None:
        """Take a buffer back. All work that reads it must be done, or queued on its GPU."""
        self.spare.setdefault((buffer.numel(), buffer.dtype, buffer.device), []).append(buffer)


class Groups:
    """The perturbed parameters of a pass whose order is known: theta + sum_i c_i z_i, several
    parameters a launch.

    A launch costs the host as much as the noise of ten million values the GPU, and a model has
    hundreds of parameters. So consecutive ones form a group, as large as the largest parameter that
    the model has several of; it is made when its first parameter is asked for. Two groups have
    memory in turn, since modules that run inside one another may need the last of one and the first
    of the next at a time.

    A second stream that makes groups ahead was tried and taken out: its blocks and those of a
    matrix product fill the whole GPU each, so that they run one after the other all the same
    (results/measured/bench/README.md).

    Args:
        params: all parameters, on one GPU and of one type.
        order: their numbers in the order in which a pass asks for them. One that runs twice stands
            there twice; those that are larger than a group (an output layer) are left out.
    """

    def __init__(self, params: Sequence[Tensor], order: Sequence[int]) -> None:
        self.params, self.order = params, list(order)
        self.room = _room([params[i].nbytes for i in order])
        self.sequence = [i for i in order if params[i].nbytes <= self.room]
        self.groups = self._grouped()  # [start, stop) in the sequence
        self.of = [g for g, (start, stop) in enumerate(self.groups) for _ in range(start, stop)]
        self.memory = torch.empty(2 * self.room, dtype=torch.uint8, device=params[order[0]].device)
        self.span = (self.memory.data_ptr(), self.memory.data_ptr() + self.memory.numel())
        self.values = self._placed()
        self.table = Table([params[i].data for i in self.sequence], self.values, self.sequence)
        self.left: list[int] = []  # of each group, not given back yet
        self.scalars: Scalars | None = None  # of a pass that runs

    def fits(self, params: Sequence[Tensor], order: Sequence[int]) -> bool:
        """Whether the last pass had this order and gave everything back, and theta still lies where
        it lay."""
        here = [params[i].data_ptr() for i in self.sequence]
        return self.order == order and self.table.addresses == here and not any(self.left)

    def begin(self, scalars: Scalars) -> None:
        """A pass begins: theta must not move until `end`."""
        self.scalars, self.at, self.left = scalars, 0, [stop - start for start, stop in self.groups]

    def take(self, i: int) -> tuple[Tensor, int] | None:
        """Return parameter i, perturbed, and its group. None means that the caller makes it: no
        pass runs, another parameter was expected or none, or the memory is still held."""
        if self.scalars is None or self.at == len(self.sequence) or self.sequence[self.at] != i:
            return None
        place, group = self.at, self.of[self.at]
        if place == self.groups[group][0]:
            # a parameter of the group whose memory this one would take is held
            if group > 1 and self.left[group - 2]:
                return None
            self.table.launch(*self.groups[group], self.scalars)
        self.at += 1
        return self.values[place], group

    def give_back(self, group: int) -> None:
        """Take one parameter of the group back. All work that reads it must be queued."""
        self.left[group] -= 1

    def end(self) -> None:
        self.scalars = None

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
            at = g % 2 * self.room
            for i in self.sequence[start:stop]:
                p = self.params[i]
                values.append(self.memory[at : at + p.nbytes].view(p.dtype).view(p.shape))
                at += _aligned(p.nbytes)
        return values


def _aligned(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED


def _room(sizes: Sequence[int]) -> int:
    """Return the bytes of a group: the largest size that occurs twice, and a little for the vectors
    beside it."""
    ordered = sorted(sizes)
    return _aligned(
        max((a for a, b in pairwise(ordered) if a == b), default=ordered[-1]) + (1 << 20)
    )
