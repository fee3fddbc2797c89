"""Between an optimizer and its trajectory: what names the run, record every step, take the steps
again.

The closure is all through which data enters a zeroth-order optimizer. So a replay runs the method's
own `step` with a closure that reads the logged losses: whatever state it keeps follows, and no
method is known here by name. Theta moves by the logged coefficients; those that the method finds
again must agree, or its maths is not what it was.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from bszo.errors import TrajectoryError
from bszo.perturb import NOISE_VERSION, LossOracle, Terms
from bszo.trajectory.block import Step
from bszo.trajectory.header import Header
from bszo.trajectory.logged import Logged
from bszo.trajectory.reader import Trajectory
from bszo.trajectory.writer import TrajectoryWriter

NEEDS_MORE = (
    "follows true gradients, which no log of losses holds; trajectories are for zeroth-order"
    " methods"
)
# of the largest coefficient: another processor's last bits pass, another formula does not
AGREE = 1e-6


@runtime_checkable
class ZerothOrder(Protocol):
    """What is needed of an optimizer: `bszo.ZerothOrderOptimizer` and all that derive from it."""

    param_groups: list[dict[str, Any]]
    module: nn.Module | None
    num_steps: int
    num_forwards: int
    num_backwards: int
    recorder: Callable[[Any, LossOracle, Terms], None] | None
    gradient: Callable[[LossOracle], tuple[Terms, Any]]

    def step(self, closure: Callable[[], Any]) -> float: ...

    def settings(self) -> dict[str, Any]: ...

    def scalar_state(self) -> dict[str, Any]: ...

    def trainable(self) -> list[Tensor]: ...

    def pass_by(self) -> None: ...

    def unbind(self) -> None: ...


def describe(optimizer: Any, *, base: str, config: Mapping[str, Any] | None = None) -> Header:
    """The header of the run that an optimizer begins, before its first step.

    Args:
        optimizer: a zeroth-order one that has made no step.
        base: SHA-256 of all parameters as they are now, in hex:
            `bszo.models.weights_fingerprint(module)`.
        config: plain data by which someone else can build the optimizer; no more than that need be
            known of it here.

    Raises:
        TrajectoryError: the optimizer follows true gradients, or has made steps.
    """
    optimizer = _zeroth_order(optimizer)
    if optimizer.num_steps:
        raise TrajectoryError(
            f"the optimizer has made {optimizer.num_steps} steps; a trajectory begins with none"
        )
    trainable = optimizer.trainable()
    named = (
        {}
        if optimizer.module is None
        else {id(p): name for name, p in optimizer.module.named_parameters()}
    )
    groups = [
        i
        for i, group in enumerate(optimizer.param_groups)
        for p in group["params"]
        if p.requires_grad
    ]
    shapes = [f"{i} {tuple(p.shape)} {p.dtype}" for i, p in zip(groups, trainable, strict=True)]
    names = [named[id(p)] for p in trainable if id(p) in named]
    return Header(
        base=base,
        optimizer=type(optimizer).__name__,
        settings=optimizer.settings(),
        parameters=_sha256(shapes),
        names=_sha256(names) if len(names) == len(trainable) else None,
        dtype="+".join(sorted({str(p.dtype).removeprefix("torch.") for p in trainable})),
        device="+".join(sorted({p.device.type for p in trainable})),
        noise_version=NOISE_VERSION,
        config=dict(config or {}),
    )


def record(optimizer: Any, writer: TrajectoryWriter) -> None:
    """Append every later step of the optimizer to the log, which must have as many as the optimizer
    made.

    Raises:
        TrajectoryError: it has not; from later steps, which are then complete but not in the log: a
            write failed, other parameters are trained than at the start, or the step used more than
            losses (a backward pass).
    """
    optimizer = _zeroth_order(optimizer)
    if optimizer.num_steps != writer.num_steps:
        raise TrajectoryError(
            f"{writer.path}: has {writer.num_steps} steps, the optimizer made {optimizer.num_steps}"
        )
    params, fixed = [id(p) for p in optimizer.trainable()], _fixed(optimizer)

    def recorder(optimizer: ZerothOrder, oracle: LossOracle, gradient: Terms) -> None:
        if [id(p) for p in oracle.params] != params:
            raise TrajectoryError(
                f"step {optimizer.num_steps - 1}: other parameters are trained than at the start; "
                "a trajectory needs the same ones throughout"
            )
        now = _fixed(optimizer)
        for name, there in fixed.items():
            if (here := now.get(name)) != there:
                raise TrajectoryError(
                    f"step {optimizer.num_steps - 1}: {name} is {here!r:.80}, it was {there!r:.80}"
                    " at the start; a trajectory logs lr and weight_decay alone"
                )
        if optimizer.num_backwards or (gradient and not oracle.losses):
            raise TrajectoryError(
                f"step {optimizer.num_steps - 1}: {type(optimizer).__name__} {NEEDS_MORE}"
            )
        lr, weight_decay = (
            tuple(float(group[key]) for group in optimizer.param_groups)
            for key in ("lr", "weight_decay")
        )
        losses = tuple(oracle.losses) if gradient else ()
        step = Step(
            losses, tuple(map(float, gradient.values())), lr, weight_decay, oracle.num_forwards
        )
        writer.append(optimizer.num_steps - 1, step)

    optimizer.recorder = recorder


def replay(
    trajectory: Trajectory,
    optimizer: Any,
    *,
    base: str,
    to_step: int | None = None,
    on_step: Callable[[], object] | None = None,
) -> None:
    """Take the run's steps again with no forward pass: parameters, optimizer state and rates end as
    after that step.

    They are bitwise equal on the same kind of device.

    Args:
        trajectory: as read; where it was cut back, what is sound is replayed.
        optimizer: built as for the run, on the parameters of the run's base model, before its first
            step.
        base: SHA-256 of those parameters as they are now, in hex.
        to_step: steps to take; None takes all.
        on_step: called after each.

    Raises:
        TrajectoryError: base, optimizer or parameters are not the run's, `to_step` is beyond its
            end, or the method finds other coefficients from the same losses.
    """
    here = describe(optimizer, base=base)
    # the caller's choice: only the last bits depend on it
    if trajectory.header.device != here.device:
        here = Header(**{**vars(here), "device": trajectory.header.device})
    if difference := trajectory.header.difference(here):
        raise TrajectoryError(f"the trajectory is of another run: {difference}")
    count = len(trajectory.steps) if to_step is None else to_step
    if not 0 <= count <= len(trajectory.steps):
        raise TrajectoryError(
            f"step {count}: the trajectory goes from 0 to {len(trajectory.steps)}"
        )
    if optimizer.recorder is not None:
        raise TrajectoryError("the optimizer is being recorded; a replay comes before that")
    for step in trajectory.steps[:count]:
        _take(optimizer, step)
        if on_step is not None:
            on_step()
    optimizer.unbind()  # no module ran, so that streaming has not seen what it watches for


def _take(optimizer: ZerothOrder, step: Step) -> None:
    if len(step.lr) != len(optimizer.param_groups):
        raise TrajectoryError(
            f"step {optimizer.num_steps}: has rates for {len(step.lr)} parameter groups"
        )
    for group, lr, weight_decay in zip(
        optimizer.param_groups, step.lr, step.weight_decay, strict=True
    ):
        group["lr"], group["weight_decay"] = lr, weight_decay
    spent = optimizer.num_forwards + step.num_forwards
    if step.losses:
        left = list(reversed(step.losses))
        with _moving_by(optimizer, step.coefficients, left):
            optimizer.step(Logged(left, optimizer.num_steps))
    else:
        optimizer.pass_by()
    optimizer.num_forwards = spent  # a first streaming pass that was repeated has cost one more


@contextmanager
def _moving_by(
    optimizer: ZerothOrder, coefficients: Sequence[float], left: list[float]
) -> Iterator[None]:
    """The optimizer's next step estimates as ever, and moves by what the run moved by."""
    method = optimizer.gradient

    def gradient_as_logged(oracle: LossOracle) -> tuple[Terms, Any]:
        gradient, report = method(oracle)
        found = list(gradient.values())
        slack = AGREE * max(map(abs, coefficients), default=0.0)
        agree = len(found) == len(coefficients) and all(map(_same(slack), found, coefficients))
        if left or not agree:
            raise TrajectoryError(
                f"step {optimizer.num_steps}: from the run's losses this version of the method"
                f" finds the coefficients {found!s:.80}, the run had {list(coefficients)!s:.80}"
            )
        return dict(zip(gradient, coefficients, strict=True)), report

    optimizer.gradient = gradient_as_logged
    try:
        yield
    finally:
        del optimizer.gradient  # the method's own shows again


def _same(slack: float) -> Callable[[float, float], bool]:
    return lambda a, b: abs(a - b) <= slack or a == b or (math.isnan(a) and math.isnan(b))


def _zeroth_order(optimizer: Any) -> ZerothOrder:
    if not isinstance(optimizer, ZerothOrder):
        raise TrajectoryError(f"{type(optimizer).__name__} {NEEDS_MORE}")
    return optimizer


def _fixed(optimizer: ZerothOrder) -> dict[str, Any]:
    """Settings that no step of the method changes by itself."""
    own = optimizer.scalar_state()
    return {name: value for name, value in optimizer.settings().items() if name not in own}


def _sha256(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
