"""The oracle: losses at theta + sum_i c_i z_i, by forward passes alone."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from bszo.errors import NonFiniteLoss, OptimError
from bszo.perturb.directions.base import Directions
from bszo.perturb.engines.base import Engine
from bszo.perturb.engines.each import Each, LengthsOf, SeedsOf
from bszo.perturb.engines.unmoved import Unmoved
from bszo.perturb.moves import Moves
from bszo.perturb.noise import Terms

Closure = Callable[[], Any]
# (points, loss at a point) -> the loss at every point, in order; it may have other processes take
# some of them
Share = Callable[[Sequence[Terms], Callable[[Terms], float]], list[float]]
# (closure, parameters, tangents) -> (loss, slope): see `bszo.perturb.forward_mode`
Differentiate = Callable[[Closure, Sequence[Tensor], Iterable[Tensor]], tuple[float, float]]


class Log(Protocol):
    """Losses that were taken before, in the order in which a step asks for them."""

    def __call__(self) -> float: ...

    def loss_and_slope(self) -> tuple[float, float]: ...

    def rest(self, count: int) -> list[list[float]]: ...


class LossOracle(Moves):
    """L(theta + sum_i c_i z_i) by forward passes alone, for one step of one optimizer; and the
    moves of that step.

    Args:
        params: the parameters, in the optimizer's order.
        closure: () -> the loss of the current batch, a number or a tensor of one element; for
            `measure_each` the loss of each example, (G,).
        directions: the family that turns a seed into z.
        engine: how the perturbed parameters come about.
        step: steps completed; errors name it, and a pass that the engine repeats counts at step 0
            alone.
        rounding_seed: rounds moves of bf16 parameters stochastically; None, and other types, round
            to nearest.
        share: distributes the points of `measure` over processes that hold the same theta; None
            takes them one after another.

    Attributes:
        num_forwards: forward passes so far, those that other processes took for it included.
        losses: every loss so far, in order; a slope stands after its loss.
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        closure: Closure,
        directions: Directions,
        engine: Engine,
        step: int = 0,
        rounding_seed: int | None = None,
        share: Share | None = None,
    ) -> None:
        super().__init__(params, directions, engine, rounding_seed)
        self.closure = closure
        self.step, self.share = step, share
        self.num_forwards = 0
        self.losses: list[float] = []
        self._at_theta: float | None = None
        self._log: Log | None = None
        self._perturbed = False  # has a loss been taken away from theta?
        self._of_examples = False  # are the losses those of examples?
        self._doubts = engine.doubts
        self._doubts.begin(step)

    def answer_from(self, log: Log) -> None:
        """Take losses and slopes from a log from now on. No module runs, so that an exact engine is
        left out; a walk still moves theta there and back, for its rounding is part of the run."""
        self.closure = self._log = log
        if self.engine.exact:
            self.engine = Unmoved()

    def loss(self, terms: Terms | None = None, *, everywhere: bool = False) -> float:
        """L(theta + sum_i c_i z_i) as a Python float; arguments and errors are those of
        `measure`."""
        return self.measure([terms or {}], everywhere=everywhere)[0]

    @torch.no_grad()
    def measure(
        self,
        points: Sequence[Terms],
        *,
        overflow: float | None = None,
        everywhere: bool = False,
    ) -> list[float]:
        """L(theta + sum_i c_i z_i) at every point, in their order; the first that fails ends the
        call, with `share` after all have been taken.

        Where `overflow` is given, it stands for the loss of a perturbed point that has no finite
        one.

        With `share` each point is taken by one process. Until the engine is ready, every process
        takes all of them: what it finds, and the pass that it then repeats, must be the same
        everywhere. So it is with `everywhere`, for a method that reads more in a pass than its
        loss.

        Raises:
            NonFiniteLoss: a loss is NaN or infinite, at a perturbed point only where there is no
                `overflow`; theta is back where it was (walks: up to their rounding).
            OptimError: the closure returned something other than one number, or differentiated.
        """
        if everywhere or self.share is None or not self.engine.ready:
            return [self._finite(terms, self._at(terms), overflow) for terms in points]
        before = self.num_forwards
        values = self.share(points, self._at)
        self.num_forwards = before + len(points)
        return [
            self._finite(terms, value, overflow)
            for terms, value in zip(points, values, strict=True)
        ]

    @torch.no_grad()
    def measure_each(
        self, points: Sequence[tuple[SeedsOf, float]], *, at_once: bool = False
    ) -> list[list[float]]:
        """The loss of every example e at theta + c z_e, for each point (seeds_of, c): of the seeds
        that seeds_of(G) gives for G examples, the e-th names z_e. At c = 0 all examples see theta.

        The closure returns the losses of its examples, (G,). It may say in an attribute `examples`
        where they stand in a batch (see `Each.at_each`).

        Args:
            points: a forward pass each.
            at_once: one pass over as many copies of the batch as there are points, of which the
                closure gives a closure: `closure.repeated(count)`. It counts as many passes, for it
                has their rows; theta is read once.

        Raises:
            NonFiniteLoss: one of them is NaN or infinite; theta has not moved.
            OptimError: the closure returned something else than a loss an example, or another
                number of them than before; it has no `repeated`.
        """
        assert isinstance(self.engine, Each) or self._log is not None
        if self._log is not None:
            found = self._log.rest(len(points))
        elif at_once:
            found = self._at_once(points)
        else:
            found = [self._each(self.closure, seeds_of, c) for seeds_of, c in points]
        self.num_forwards += len(points)
        for (_, c), losses in zip(points, found, strict=True):
            if len(losses) != len(found[0]):
                raise OptimError(
                    f"closure() returned {len(losses)} losses where it returned {len(found[0])}"
                    " before in this step; the same batch at every call is valid"
                )
            bad = [loss for loss in losses if not math.isfinite(loss)]
            if bad:
                raise NonFiniteLoss(self.step, bad[0], perturbed=c != 0, at_theta=self._at_theta)
            if c == 0:
                self._at_theta = sum(losses) / len(losses)
            self.losses += losses
        if self._log is None:
            self._require_own(points)
            self._doubts.ended_each(self.step, found)
            self._of_examples = True
        return found

    def _require_own(self, points: Sequence[tuple[SeedsOf, float]]) -> None:
        """See that an example's loss depends on its own direction alone, where the axes of a
        layer's input do not tell: two more passes, when such a layer first runs."""
        engine = self.engine
        assert isinstance(engine, Each)
        own = next(((seeds_of, c) for seeds_of, c in points if c), None)
        if not engine.unsure or engine.num_examples < 2 or own is None:
            return
        seeds_of, c = own
        alone: tuple[float | LengthsOf, ...] = (0.0, lambda rows: [c] + [0.0] * (rows - 1))
        engine.require_own(*(self._each(self.closure, seeds_of, lengths) for lengths in alone))
        self.num_forwards += len(alone) * (self.step == 0)  # a resumed run asks again

    def _at_once(self, points: Sequence[tuple[SeedsOf, float]]) -> list[list[float]]:
        count = len(points)
        if (repeated := getattr(self.closure, "repeated", None)) is None:
            raise OptimError(
                "stacked=True: the closure has no `repeated`, which makes of a number of copies a"
                " closure over so many copies of the batch; stacked=False is valid"
            )

        def copy_of(rows: int) -> int:
            if rows % count:
                raise OptimError(
                    f"closure.repeated({count}) has {rows} examples; a multiple of {count} is valid"
                )
            return rows // count

        losses = self._each(
            repeated(count),
            lambda rows: [seed for seeds_of, _ in points for seed in seeds_of(copy_of(rows))],
            lambda rows: [c for _, c in points for _ in range(copy_of(rows))],
        )
        size = len(losses) // count
        return [losses[i * size : (i + 1) * size] for i in range(count)]

    def _each(
        self, closure: Callable[[], Any], seeds_of: SeedsOf, c: float | LengthsOf
    ) -> list[float]:
        engine = self.engine
        assert isinstance(engine, Each)
        examples = getattr(closure, "examples", ())
        if isinstance(examples, Tensor):
            raise OptimError(
                f"closure.examples is a tensor of shape {tuple(examples.shape)}; a tuple of"
                " tensors, one for each form of a layer's input, is valid"
            )
        with engine.at_each(self.directions, seeds_of, c, examples), _no_kept_casts():
            result = self._run(closure)
        if not isinstance(result, Tensor) or result.shape != (engine.num_examples,):
            what = f"shape {tuple(result.shape)}" if isinstance(result, Tensor) else repr(result)
            raise OptimError(
                f"closure() returned {what}; a loss an example, a tensor of shape"
                f" ({engine.num_examples},), is valid"
            )
        return result.double().tolist()

    @torch.no_grad()
    def slope(self, seed: int, differentiate: Differentiate) -> tuple[float, float]:
        """L(theta) and z^T grad L(theta) from one pass of forward-mode differentiation; raises as
        `measure`."""
        self.num_forwards += 1
        if self._log is not None:
            loss, slope = self._log.loss_and_slope()
        else:
            tangents = (self.directions.direction(seed, i) for i in range(len(self.params)))
            loss, slope = differentiate(self.closure, self.params, tangents)
        self._finite({}, loss)
        if not math.isfinite(slope):
            raise NonFiniteLoss(self.step, slope, at_theta=loss, what="slope")
        if slope == 0 and self._log is None:
            self._doubts.unanswered(self.step, "the slope is 0")
        self.losses.append(slope)
        return loss, slope

    @contextmanager
    def along(self, directions: Directions) -> Iterator[None]:
        """Measure along another family for a while; theta is home before and after."""
        self.home()
        kept, self.directions = self.directions, directions
        try:
            yield
            self.home()
        finally:
            self.directions = kept

    def _at(self, terms: Terms) -> float:
        try:
            value = self._evaluate(terms)
            while math.isfinite(value) and self.engine.repair():
                value = self._evaluate(terms)
                # a resumed run searches again what its first step has paid for
                self.num_forwards -= self.step > 0
        except BaseException:
            self.home()
            raise
        return value

    def _finite(self, terms: Terms, value: float, overflow: float | None = None) -> float:
        if not math.isfinite(value):
            if not terms or overflow is None:
                self.home()
                raise NonFiniteLoss(
                    self.step, value, perturbed=bool(terms), at_theta=self._at_theta
                )
            value = overflow
        if not terms:
            self._at_theta = value
        self._perturbed |= bool(terms)
        if self.engine.exact and self._log is None:
            self._doubts.measured(tuple(terms.items()), value)
        self.losses.append(value)
        return value

    def _evaluate(self, terms: Terms) -> float:
        self.num_forwards += 1
        with self.engine.at(self.directions, terms), _no_kept_casts():
            result = self._run(self.closure)
        if isinstance(result, Tensor) and result.numel() != 1:
            raise OptimError(
                f"closure() returned a tensor of shape {tuple(result.shape)}; one number is valid"
            )
        if self._log is None and isinstance(result, Tensor):
            self._doubts.returned(result.dtype)
        try:
            return float(result)
        except (TypeError, ValueError) as error:
            raise OptimError(
                f"closure() returned {type(result).__name__} {result!r}; one number is valid"
            ) from error

    def _run(self, closure: Callable[[], Any]) -> Any:
        try:
            result = closure()
        except RuntimeError as error:
            if "does not require grad" not in str(error):
                raise
            raise OptimError(
                "closure() differentiates, and gradients are off in a step that takes losses alone:"
                " a closure without backward() is valid, or torch.enable_grad() around what the"
                " loss itself differentiates"
            ) from error
        if self._log is None:
            self._doubts.passed()
        return result

    @torch.no_grad()
    def home(self) -> None:
        """Bring theta to where the step began, as it must be before it is moved."""
        if self._log is None and not self._of_examples:
            self._doubts.ended(self.step, self.losses, self._perturbed)
        super().home()


@contextmanager
def _no_kept_casts() -> Iterator[None]:
    """An autocast around a step keeps a parameter's 16-bit cast by the parameter's identity, though
    its values move."""
    torch.clear_autocast_cache()
    try:
        yield
    finally:
        torch.clear_autocast_cache()
