"""A trajectory's steps, in blocks that are each chained to all before it.

    block   first step (u64)
            steps n, coefficients k, losses m, forwards a step, groups g, rates r (u32 each)
            bytes a loss (u8, 4 or 8)  rates move (u8, 0 or 1) weight decays (g)  rates (r, or n r
            where they move)  coefficients (n k)  losses (n m) SHA-256 of the digest before it and
            of all this
    end     a block of no steps: the run is over

Little-endian; rates, decays and coefficients are float64, and so are losses that float32 would
round. A block holds steps of one shape, at most 128 of them where they take no bytes of their own.
Its chained digest finds a block that was damaged, dropped, swapped or taken from another log.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bszo.errors import TrajectoryError
from bszo.trajectory.header import digest

MOST_STEPS = 1 << 16
# steps without a byte of their own: else a log of a few bytes could name more than memory holds
MOST_EMPTY = 128
MOST_BYTES = 1 << 28
SHAPE = struct.Struct("<QIIIIIIBB")


@dataclass(frozen=True)
class Step:
    """One step as replay needs it: what the oracle answered, and how far theta was moved along each
    direction.

    The directions' seeds are no part of it: they are a function of the optimizer's seed and the
    step's number. A step without losses moved nothing (it was skipped).

    Attributes:
        losses: in the order taken.
        coefficients: g of the move -lr sum_i g_i z_i, in the order of the seeds.
        lr, weight_decay: of each parameter group.
        num_forwards: forward passes spent.
    """

    losses: tuple[float, ...]
    coefficients: tuple[float, ...]
    lr: tuple[float, ...]
    weight_decay: tuple[float, ...]
    num_forwards: int

    def __post_init__(self) -> None:
        if (
            not self.lr
            or len(self.lr) != len(self.weight_decay)
            or not 0 <= self.num_forwards < 1 << 32
        ):
            raise TrajectoryError(
                f"trajectory step: lr {self.lr!s:.40}, weight_decay {self.weight_decay!s:.40} and "
                f"num_forwards {self.num_forwards}: one rate a group and a count are valid"
            )

    def fits(self, other: "Step") -> bool:
        """May both stand in one block?"""
        return self._shape() == other._shape()

    @property
    def most(self) -> int:
        """How many such steps a block may hold."""
        return MOST_STEPS if self.losses or self.coefficients else MOST_EMPTY

    def _shape(self) -> tuple[Any, ...]:
        return (
            len(self.losses),
            len(self.coefficients),
            len(self.lr),
            self.num_forwards,
            _bits(self.weight_decay),
        )


def encode_block(first: int, steps: Sequence[Step], before: bytes) -> bytes:
    """Steps that fit one another, numbered from `first`, with their digest; no steps are the end of
    a run."""
    if not steps:
        head = SHAPE.pack(first, 0, 0, 0, 0, 0, 0, 0, 0)
        return head + digest(before, head)
    like = steps[0]
    one_rate = all(_bits(step.lr) == _bits(step.lr[:1]) * len(step.lr) for step in steps)
    rows = [step.lr[:1] if one_rate else step.lr for step in steps]
    moving = any(_bits(row) != _bits(rows[0]) for row in rows)
    losses = [loss for step in steps for loss in step.losses]
    loss_bytes = 4 if _fit_float32(losses) else 8
    head = SHAPE.pack(
        first,
        len(steps),
        len(like.coefficients),
        len(like.losses),
        like.num_forwards,
        len(like.weight_decay),
        len(rows[0]),
        loss_bytes,
        moving,
    )
    doubles = [
        *like.weight_decay,
        *(lr for row in (rows if moving else rows[:1]) for lr in row),
        *(c for step in steps for c in step.coefficients),
    ]
    body = struct.pack(
        f"<{len(doubles)}d{len(losses)}{'f' if loss_bytes == 4 else 'd'}", *doubles, *losses
    )
    return head + body + digest(before, head, body)


def body_bytes(head: bytes, first: int) -> int | None:
    """Length of the body that follows a block's first bytes; None where no writer makes such a
    block."""
    number, n, k, m, _, groups, rates, loss_bytes, moving = SHAPE.unpack(head)
    if n == 0:
        return 0 if number == first and not any(head[8:]) else None
    sane = (
        number == first
        and loss_bytes in (4, 8)
        and moving in (0, 1)
        and groups >= 1
        and rates in (1, groups)
    )
    size = 8 * (groups + (n if moving else 1) * rates + n * k) + n * m * loss_bytes
    most = MOST_STEPS if k or m else MOST_EMPTY
    return size if sane and n <= most and size <= MOST_BYTES else None


def decode_block(head: bytes, body: bytes) -> list[Step]:
    """The steps of a block whose digest was found right."""
    _, n, k, m, num_forwards, groups, rates, loss_bytes, moving = SHAPE.unpack(head)
    num_rates = (n if moving else 1) * rates
    code = "f" if loss_bytes == 4 else "d"
    values = struct.unpack(f"<{groups + num_rates + n * k}d{n * m}{code}", body) if n else ()
    decays, rest = values[:groups], values[groups:]
    lrs, rest = rest[:num_rates], rest[num_rates:]
    coefficients, losses = rest[: n * k], rest[n * k :]
    lr = [
        (lrs[i * rates : (i + 1) * rates] if moving else lrs) * (groups // rates) for i in range(n)
    ]
    return [
        Step(
            losses[i * m : (i + 1) * m],
            coefficients[i * k : (i + 1) * k],
            lr[i],
            decays,
            num_forwards,
        )
        for i in range(n)
    ]


def _bits(values: Sequence[float]) -> bytes:
    """To compare by: -0.0 is not 0.0, and NaN is itself."""
    return struct.pack(f"<{len(values)}d", *values)


def _fit_float32(values: Sequence[float]) -> bool:
    try:
        packed = struct.pack(f"<{len(values)}f", *values)
    except OverflowError:
        return False
    return list(struct.unpack(f"<{len(values)}f", packed)) == list(values)
