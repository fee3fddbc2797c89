"""Recording and replay: an optimizer's steps go into a trajectory, and are taken again from it.

Data enters a zeroth-order optimizer through its closure alone. So a replay runs the method's own
`step` with a closure that reads the logged losses: the method's state follows by itself, and no
method is known here by name. Theta moves by the logged coefficients. The method finds coefficients
from the losses again, and they must agree with the logged ones; else its maths has changed.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from bszo.errors import TrajectoryError
from bszo.perturb import NOISE_VERSION, LossOracle, Terms
from bszo.trajectory.block import Step
from bszo.trajectory.header import Header
from bszo.trajectory.logged import LoggedLosses
from bszo.trajectory.reader import Trajectory
from bszo.trajectory.writer import TrajectoryWriter

NEEDS_MORE = (
    "follows true gradients, which no log of losses holds; trajectories are for zeroth-order"
    " methods"
)
# share of the largest coefficient by which two may differ: the last bits of another processor pass,
# another formula does not
AGREEMENT = 1e-6


@runtime_checkable
class ZerothOrder(Protocol):
    """What a trajectory needs of an optimizer; `bszo.ZerothOrderOptimizer` has it all."""

    param_groups: list[dict[str, Any]]
    module: nn.Module | None
    num_steps: int
    num_forwards: int
    num_backwards: int
    recorder: Callable[[Any, LossOracle, Terms], None] | None
    gradient: Callable[[LossOracle], tuple[Terms, Any]]
    direction_seeds: Callable[[int], list[int]]

    def step(self, closure: Callable[[], Any]) -> float: ...

    def settings(self) -> dict[str, Any]: ...

    def scalar_state(self) -> dict[str, Any]: ...

    def trainable(self) -> list[Tensor]: ...

    def pass_by(self) -> None: ...

    def unbind(self) -> None: ...


def describe(optimizer: Any, *, base: str, config: Mapping[str, Any] | None = None) -> Header:
    """The header of the run that an optimizer is about to begin.

    Args:
        optimizer: a zeroth-order one that has made no step.
        base: SHA-256 of all parameters as they are now, in hex:
            `bszo.models.weights_fingerprint(module)`.
        config: plain data by which someone else can build the optimizer; it is stored as it is.

    Raises:
        TrajectoryError: the optimizer follows true gradients or reads a layer's inputs, has made
            steps, or takes its directions from a lambda.
    """
    optimizer = _zeroth_order(optimizer)
    if optimizer.num_steps:
        raise TrajectoryError(
            f"the optimizer has made {optimizer.num_steps} steps; a trajectory begins with none"
        )
    if "<lambda>" in str(optimizer.settings().get("injected")):
        raise TrajectoryError(
            "directions= is a lambda, which has no name that a replay could know it by; a function"
            " with a name is valid"
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
    """Append every later step of the optimizer to the log.

    Raises:
        TrajectoryError: the log has another number of steps than the optimizer has made. From a
            later step, which is then complete but not in the log: a write failed, other parameters
            are trained or another setting holds than at the start, or the step used more than
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
    require_finite: bool = True,
) -> None:
    """Take the run's steps again without a forward pass.

    Parameters, optimizer state and rates end as they were after that step of the run, bit for bit
    on the same kind of device.

    Args:
        trajectory: as read; where it was cut back, its sound part is replayed.
        optimizer: built as for the run, on the parameters of the run's base model, before its first
            step.
        base: SHA-256 of those parameters as they are now, in hex.
        to_step: steps to take; None takes all.
        on_step: called after each step.
        require_finite: refuse parameters that end as NaN or infinite. A run that goes on from its
            own log may have such parameters, and finds out at its next loss.

    Raises:
        TrajectoryError: base, optimizer or parameters are not the run's, `to_step` is beyond its
            end, or a step holds a value by which no sound run moves; no parameter has moved then.
            Later: the method finds other coefficients from the same losses, or the parameters end
            as NaN or infinite.
    """
    here = describe(optimizer, base=base)
    # the caller chooses the device: only the last bits depend on it
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
    require_sound(trajectory.steps[:count])
    for step in trajectory.steps[:count]:
        _take(optimizer, step)
        if on_step is not None:
            on_step()
    optimizer.unbind()  # no module ran, so that streaming has not seen what it watches for
    if require_finite:
        _require_finite(optimizer, count)


def require_sound(steps: Sequence[Step]) -> None:
    """Raise TrajectoryError for the first step with a value by which no sound run moves."""
    for number, step in enumerate(steps):
        if fault := step.fault():
            raise TrajectoryError(f"step {number}: {fault}")


def _require_finite(optimizer: ZerothOrder, count: int) -> None:
    for i, parameter in enumerate(optimizer.trainable()):
        if not parameter.isfinite().all():
            raise TrajectoryError(
                f"step {count}: parameter {i} of {tuple(parameter.shape)} has become NaN or"
                " infinite; the run had diverged by then, an earlier step is valid"
            )


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
        log = LoggedLosses(left, optimizer.num_steps)
        with _bounded_directions(optimizer, step), _moving_by(optimizer, step.coefficients, log):
            optimizer.step(log)
    else:
        optimizer.pass_by()
    optimizer.num_forwards = spent  # a first streaming pass that was repeated has cost one more


@contextmanager
def _bounded_directions(optimizer: ZerothOrder, step: Step) -> Iterator[None]:
    """The optimizer draws no more directions than the step has numbers for.

    A file may name a method with 1e9 directions, whose seeds alone would take all memory.
    """
    draw = optimizer.direction_seeds
    most = max(len(step.losses), len(step.coefficients))

    def bounded(count: int) -> list[int]:
        if count > most:
            raise TrajectoryError(
                f"step {optimizer.num_steps}: the method asks for {count} directions, the run's"
                f" losses and coefficients are of {most} at most"
            )
        return draw(count)

    optimizer.direction_seeds = bounded
    try:
        yield
    finally:
        del optimizer.direction_seeds  # the method's own shows again


@contextmanager
def _moving_by(
    optimizer: ZerothOrder, coefficients: Sequence[float], log: LoggedLosses
) -> Iterator[None]:
    """While active, the optimizer's step estimates from the log, and moves by what the run moved
    by."""
    method = optimizer.gradient

    def gradient_as_logged(oracle: LossOracle) -> tuple[Terms, Any]:
        oracle.answer_from(log)
        gradient, report = method(oracle)
        found = list(gradient.values())
        slack = AGREEMENT * max(map(abs, coefficients), default=0.0)
        agree = len(found) == len(coefficients) and all(
            abs(a - b) <= slack for a, b in zip(found, coefficients, strict=True)
        )
        if log.left or not agree:
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


def _zeroth_order(optimizer: Any) -> ZerothOrder:
    if not isinstance(optimizer, ZerothOrder):
        raise TrajectoryError(f"{type(optimizer).__name__} {NEEDS_MORE}")
    if getattr(optimizer, "reads_inputs", False):
        raise TrajectoryError(
            f"{type(optimizer).__name__}: its directions come from the inputs of layers, which no"
            " log of losses holds; checkpoint=full is valid"
        )
    return optimizer


def _fixed(optimizer: ZerothOrder) -> dict[str, Any]:
    """Settings that no step of the method changes by itself."""
    own = optimizer.scalar_state()
    return {name: value for name, value in optimizer.settings().items() if name not in own}


def _sha256(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
