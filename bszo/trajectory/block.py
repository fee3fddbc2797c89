"""Blocks of a trajectory: steps as bytes, each block chained to all before it.

    block   first step (u64)
            steps n, coefficients k, losses m, forwards a step, groups g, rates r (u32 each)
            bytes a loss (u8, 4 or 8)  rates move (u8, 0 or 1)
            weight decays (g)  rates (r, or n r where they move)  coefficients (n k)  losses (n m)
            SHA-256 of the digest before it and of all this
    end     a block of no steps: the run is over

All numbers are little-endian. Rates, decays and coefficients are float64, and so are losses that
float32 would round. The steps of a block have one shape. Steps that take no bytes of their own are
at most 128 in a block. The chained digest shows a block that was damaged, dropped, swapped or taken
from another log.
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bszo.errors import TrajectoryError
from bszo.trajectory.header import digest

MAX_STEPS = 1 << 16
# of steps without a byte of their own: else a log of a few bytes could name more than memory holds
MAX_EMPTY_STEPS = 128
MAX_BLOCK_BYTES = 1 << 28
# of a block whose steps have one rate each for many groups: a file holds it once, memory a group
MAX_RATES = 1 << 20
SHAPE = struct.Struct("<QIIIIIIBB")
MAX_FLOAT32 = 3.4028234663852886e38  # moves are computed in float32


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a run as a replay needs it: the losses that were taken, and how far theta moved.

    The directions' seeds are no part of it: they are a function of the optimizer's seed and the
    step's number. A step without losses moved nothing (it was skipped).

    Attributes:
        losses: in the order taken.
        coefficients: g of the move -lr sum_i g_i z_i, in the order of the seeds.
        lr, weight_decay: of each parameter group.
        num_forwards: forward passes spent.

    Raises:
        TrajectoryError: there is not one rate and one decay for each group, or num_forwards is
            no 32-bit count.
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

    def fault(self) -> str | None:
        """The first value by which no sound run moves, in words; None where every value is sound.

        Coefficients, rates and decays must be finite, rates and decays at least 0. The product
        lr * weight_decay must not exceed 2, beyond which a decay makes parameters grow, and float32
        must hold lr times every coefficient. A step without losses has no coefficients. A loss may
        be infinite: some methods try a point and stay away from it.
        """
        for name in ("coefficients", "lr", "weight_decay"):
            values = getattr(self, name)
            low = 0.0 if name in ("lr", "weight_decay") else -math.inf
            for i, value in enumerate(values):
                if not (math.isfinite(value) and value >= low):
                    valid = "a finite number" + (" of at least 0" if low == 0 else "")
                    return f"{name}[{i}]={value}: {valid} is valid"
        for i, (lr, decay) in enumerate(zip(self.lr, self.weight_decay, strict=True)):
            if lr * decay > 2:
                return f"lr[{i}]={lr}, weight_decay[{i}]={decay}: a product of at most 2 is valid"
        if self.coefficients and not self.losses:
            return "coefficients without losses: a skipped step has neither"
        largest = max(map(abs, self.coefficients), default=0.0)
        if max(self.lr) * largest > MAX_FLOAT32:
            return f"lr={max(self.lr)}, a coefficient of {largest}: no float32 holds their product"
        return None

    def encoded(self) -> bytes:
        """Bytes that are the same for equal steps, and for no others."""
        counts = (len(self.losses), len(self.coefficients), len(self.lr), self.num_forwards)
        values = (*self.losses, *self.coefficients, *self.lr, *self.weight_decay)
        return struct.pack("<4I", *counts) + _bits(values)

    def fits(self, other: "Step") -> bool:
        """Whether both may stand in one block."""
        return self._shape() == other._shape()

    @property
    def max_steps(self) -> int:
        """How many such steps a block may hold."""
        most = MAX_STEPS if self.losses or self.coefficients else MAX_EMPTY_STEPS
        return max(1, min(most, MAX_RATES // len(self.lr)))

    def _shape(self) -> tuple[Any, ...]:
        return (
            len(self.losses),
            len(self.coefficients),
            len(self.lr),
            self.num_forwards,
            _bits(self.weight_decay),
        )


def encode_block(first: int, steps: Sequence[Step], before: bytes) -> bytes:
    """The bytes of a block, its digest included.

    Args:
        first: number of the first step.
        steps: they must fit one another; no steps mark the end of the run.
        before: digest of the block before, or of the header.
    """
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
    block.

    It is asked before a byte of the body is read, so that a hostile file takes no memory.
    """
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
    most = MAX_STEPS if k or m else MAX_EMPTY_STEPS
    small = size <= MAX_BLOCK_BYTES and (not moving or n * groups <= MAX_RATES)
    return size if sane and n <= most and small else None


def decode_block(head: bytes, body: bytes) -> list[Step]:
    """The steps of a block whose digest was found right.

    What the steps of a block share is one object in memory: a small file must not take much.
    """
    _, n, k, m, num_forwards, groups, rates, loss_bytes, moving = SHAPE.unpack(head)
    num_rates = (n if moving else 1) * rates
    code = "f" if loss_bytes == 4 else "d"
    values = struct.unpack(f"<{groups + num_rates + n * k}d{n * m}{code}", body) if n else ()
    decays, rest = values[:groups], values[groups:]
    lrs, rest = rest[:num_rates], rest[num_rates:]
    coefficients, losses = rest[: n * k], rest[n * k :]
    if n and not (k or m or moving):
        return [Step((), (), lrs * (groups // rates), decays, num_forwards)] * n
    fixed = () if moving or not n else lrs * (groups // rates)
    return [
        Step(
            losses[i * m : (i + 1) * m],
            coefficients[i * k : (i + 1) * k],
            lrs[i * rates : (i + 1) * rates] * (groups // rates) if moving else fixed,
            decays,
            num_forwards,
        )
        for i in range(n)
    ]


def _bits(values: Sequence[float]) -> bytes:
    """To compare numbers by: -0.0 is not 0.0, and NaN equals itself."""
    return struct.pack(f"<{len(values)}d", *values)


def _fit_float32(values: Sequence[float]) -> bool:
    try:
        packed = struct.pack(f"<{len(values)}f", *values)
    except OverflowError:
        return False
    return list(struct.unpack(f"<{len(values)}f", packed)) == list(values)
