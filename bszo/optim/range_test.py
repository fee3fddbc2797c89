"""Range test: the learning rate to begin with, found by steps that are all taken back."""

import copy
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from bszo.errors import NonFiniteLoss, OptimError
from bszo.optim.hyperparameter import number, whole
from bszo.optim.options import require
from bszo.optim.recommendation import Probe, RangeTest, next_rates, recommended
from bszo.perturb import Closure, mix64


def find_lr(
    optimizer: Any,
    closures: Sequence[Closure],
    *,
    held: Sequence[Closure] | None = None,
    alive: Callable[[], bool] | None = None,
    rates: Sequence[float] | None = None,
    steps: int = 20,
    repeats: int = 8,
    least_score: float = 3.0,
    on_probe: Callable[[Probe], None] | None = None,
) -> RangeTest:
    """D(lr) = mean_r (L(theta_r(lr)) - L(theta)),  theta_r(lr) after `steps` steps at lr with seed
    r; of the rates with D <= - least_score error(D), that of the least D + 2 error(D) is
    recommended.

    One step's change is mostly that of its own direction, and which direction a step draws says
    nothing about the rate. So each rate takes several steps, and takes them again with other
    directions on other batches; the spread of the repeats is D's error. The seeds, the batches of
    repeat r, and the batches that L is the mean loss of, are the same for all rates. Every repeat
    begins at the optimizer's present state, and all of it is put back bit for bit at the end, also
    where an error ends it. Where no D is significant, nothing is recommended.

    A rate diverges where a loss is not finite, or where the held batches, whose losses differed,
    come to one and the same positive loss. What it cannot see is what comes later than `steps`
    steps: a rate that falls fastest now may be too large for a long run, for which the next smaller
    rate is the careful choice.

    Forward passes: a rate takes repeats x (steps x those of a step + the held batches). Extra
    memory: n elements for the parameters as they were, and twice the optimizer's state.

    Args:
        optimizer: any of this library's; groups keep the ratios of their lr.
        closures: () -> the loss of one batch, as `step` takes it, for each of several batches;
            repeat r has batches r steps, r steps + 1, ... of them, from the front again at the end.
        held: those of the batches that L is measured on; None means the same as `closures`, which
            flatters every rate where they are few.
        alive: () -> whether the parameters are worth a loss, asked after the steps of each repeat;
            where they are not, the rate diverges.
        rates: learning rates, of the group with the greatest; None means half decades (1, 3, 10,
            30, ... times a power of ten) from the optimizer's own rate up and down, until the best
            one has a worse neighbour on either side.
        steps: steps of a repeat.
        repeats: repeats of a rate, at least 2.
        least_score: how many standard errors the loss must fall by.
        on_probe: called with each rate's `Probe` as soon as there is one.

    Raises:
        OptimError: an argument that is out of range; an optimizer with a failed step that is not
            skipped, or with gradients left; a held loss that is not finite; a loss that no
            direction changes.

    Source: our own, after the range test of Smith 2017, arXiv 1506.01186, section 3.3.

    Example:
        >>> import torch
        >>> from bszo import MeZO, find_lr
        >>> theta = torch.nn.Parameter(torch.ones(30))
        >>> optimizer = MeZO([theta], lr=1e-3, eps=1e-3)
        >>> found = find_lr(optimizer, [lambda: theta.square().sum()])
        >>> found.lr, optimizer.num_steps, bool((theta == 1).all())
        (0.01, 0, True)
    """
    closures = _closures("closures", closures)
    held = closures if held is None else _closures("held", held)
    steps, repeats = _count("steps", steps, 1), _count("repeats", repeats, 2)
    least_score = _score(least_score)
    given = None if rates is None else _rates(rates)
    with _Start(optimizer).kept() as start:
        trial = _Trial(start, closures, held, alive or (lambda: True), steps, repeats)
        found: dict[float, Probe] = {}
        for lr in next_rates(start.lr, found, least_score) if given is None else given:
            found[lr] = trial.probe(lr)
            if on_probe is not None:
                on_probe(found[lr])
        num_forwards = start.num_forwards + trial.num_held
    probes = tuple(found[lr] for lr in sorted(found))
    lr, reason = recommended(probes, steps, least_score)
    return RangeTest(lr, reason, probes, trial.loss, num_forwards)


class _Start:
    """An optimizer's present state, to which every repeat goes back.

    Attributes:
        lr: the greatest rate of a group.
        num_forwards: those of all steps since.
    """

    def __init__(self, optimizer: Any) -> None:
        require(
            isinstance(optimizer, torch.optim.Optimizer) and hasattr(optimizer, "num_forwards"),
            f"optimizer={type(optimizer).__name__}: one of this library's is valid, such as"
            " FirstOrder(params, algorithm=...) for one of torch's",
        )
        self.optimizer: Any = optimizer
        self.parts = [optimizer, *(vars(optimizer).get(side) for side in ("low", "high"))]
        self.parts = [part for part in self.parts if part is not None]
        require(
            not any(vars(part).get("_failed") for part in self.parts),
            "optimizer: its last step raised NonFiniteLoss and is pending; after skip() or a step"
            " that ends it is valid",
        )
        self.params = [
            p for group in optimizer.param_groups for p in group["params"] if p.requires_grad
        ]
        require(
            all(p.grad is None for p in self.params),
            "optimizer: a parameter has a gradient pending, which a step may drop; after"
            " zero_grad() it is valid",
        )
        rates = [float(group["lr"]) for group in optimizer.param_groups]
        self.lr = max(rates)
        require(self.lr > 0, "optimizer: lr is 0 in every group; a positive one is valid")
        self.ratios = [rate / self.lr for rate in rates]
        self.values = [p.detach().clone() for p in self.params]
        self.state = copy.deepcopy(optimizer.state_dict())
        self.beside = [
            {
                name: vars(part)[name]
                for name in ("last", "recorder", "trial", "_failed")
                if name in vars(part)
            }
            for part in self.parts
        ]
        self.before = self.num_forwards = 0

    @contextmanager
    def kept(self) -> Iterator["_Start"]:
        """Put everything back at the end. In between no log records the steps."""
        try:
            for part in self.parts:
                if "recorder" in vars(part):
                    part.recorder = None
            yield self
        finally:
            self._restore()
            for part, beside in zip(self.parts, self.beside, strict=True):
                vars(part).update(beside)

    def begin(self, lr: float, repeat: int) -> None:
        """Go back to the start, with this rate and this repeat's directions. Of an optimizer that
        has made steps the seed of bases stays: what it keeps may have coordinates in one."""
        self._restore()
        for group, ratio in zip(self.optimizer.param_groups, self.ratios, strict=True):
            group["lr"] = lr * ratio
        for part in self.parts:
            if hasattr(part, "seed"):
                part.trial = mix64(part.seed, repeat, -8)
                if part.num_steps == 0:
                    part.seed = part.trial

    def step(self, closure: Closure) -> bool:
        """Take a step; False where all its losses were one and the same number."""
        before = self.optimizer.num_forwards
        try:
            type(self.optimizer).step(self.optimizer, closure)  # past what a scheduler has put on
        finally:
            self.num_forwards += self.optimizer.num_forwards - before
        losses = self.optimizer.last.losses
        return len(losses) < 2 or len(set(losses)) > 1

    @torch.no_grad()
    def _restore(self) -> None:
        for p, value in zip(self.params, self.values, strict=True):
            p.copy_(value)
        # a copy: torch takes over some tensors of a state as they are, and steps write into them
        self.optimizer.load_state_dict(copy.deepcopy(self.state))


class _Trial:
    """Steps at one rate after another, on common batches."""

    def __init__(
        self,
        start: _Start,
        closures: Sequence[Closure],
        held: Sequence[Closure],
        alive: Callable[[], bool],
        steps: int,
        repeats: int,
    ) -> None:
        self.start, self.closures, self.held, self.alive = start, closures, held, alive
        self.steps, self.repeats = steps, repeats
        self.num_held = 0
        self.answered = False  # has a loss ever followed the parameters?
        losses = [self._one(closure) for closure in held]
        for i, loss in enumerate(losses):
            require(
                math.isfinite(loss),
                f"held[{i}]() returned {loss} before any step; a finite loss is valid",
            )
        self.loss = statistics.fmean(losses)
        self.distinct = len(set(losses)) > 1

    def probe(self, lr: float) -> Probe:
        changes = []
        for repeat in range(self.repeats):
            self.start.begin(lr, repeat)
            after = self._loss_after(repeat * self.steps)
            if not math.isfinite(after):
                return Probe(lr, math.nan, math.nan)
            changes.append(after - self.loss)
        require(
            self.answered or any(changes),
            f"closures: the loss stays {self.loss:.6g} along every direction of {self.repeats} x"
            f" {self.steps} steps, so that nothing can be learnt from it; one that depends on the"
            " parameters, and an eps that their type does not round away, is valid",
        )
        error = statistics.stdev(changes) / len(changes) ** 0.5
        return Probe(lr, statistics.fmean(changes), error)

    def _loss_after(self, first: int) -> float:
        """The held loss after the steps that begin at this batch; NaN if one has no finite loss or
        they leave nothing alive. All held batches at one loss are nothing alive: a model that has
        collapsed says the same of every row, and its loss may be lower than before. A loss of 0,
        or a reward, which is below, may be that of a model which has learnt all of them."""
        try:
            for t in range(first, first + self.steps):
                self.answered |= self.start.step(self.closures[t % len(self.closures)])
        except NonFiniteLoss:
            return math.nan
        losses = [self._one(closure) for closure in self.held]
        after = statistics.fmean(losses)
        collapsed = self.distinct and len(set(losses)) == 1 and after > 0
        return after if math.isfinite(after) and not collapsed and self.alive() else math.nan

    @torch.no_grad()
    def _one(self, closure: Closure) -> float:
        """The loss of one batch; the mean, of a closure that returns a loss an example."""
        self.num_held += 1
        loss = closure()
        return float(loss.double().mean()) if isinstance(loss, Tensor) else float(loss)


def _closures(name: str, closures: Sequence[Closure]) -> Sequence[Closure]:
    require(
        isinstance(closures, Sequence) and len(closures) > 0 and all(map(callable, closures)),
        f"{name}: a list of closures is valid, each () -> the loss of one batch",
    )
    return closures


def _count(name: str, value: Any, least: int) -> int:
    try:
        count = whole(value)
    except TypeError:
        count = least - 1
    require(count >= least, f"{name}={value!r}: a whole number, {least} or more, is valid")
    return count


def _score(score: Any) -> float:
    try:
        found = number(score)
    except (TypeError, ValueError):
        found = math.nan
    require(0 < found < math.inf, f"least_score={score!r:.80}: a positive number is valid")
    return found


def _rates(rates: Iterable[float]) -> list[float]:
    """The rates in order; OptimError for one that is none, or is there twice."""
    try:
        found = [float(number(rate)) for rate in rates]
    except (TypeError, ValueError) as error:
        raise OptimError(f"rates={rates!r:.80}: a list of numbers is valid") from error
    for rate in found:
        require(0 < rate < math.inf, f"rates: {rate} is none; positive, finite numbers are valid")
    require(len(found) > 0, "rates: the list is empty; one rate or more is valid")
    require(len(set(found)) == len(found), f"rates={found}: one of them is there twice")
    return sorted(found)
