"""What every zeroth-order optimizer shares: one `step`, a private stream of seeds, and a complete
state."""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, Self, get_args

import torch
from torch import Tensor, nn

from bszo.errors import NonFiniteLoss, OptimError
from bszo.optim.report import StepReport, joined
from bszo.optim.restriction import Restricted, Restriction
from bszo.optim.state import CompleteState, is_expanded, require, require_failed
from bszo.perturb import (
    Closure,
    DirectionFunction,
    Directions,
    Gaussian,
    Injected,
    Legs,
    LossOracle,
    MaskScope,
    Perturbation,
    Share,
    Split,
    Terms,
    Walk,
    make_engine,
    mix64,
    seed_in_block,
)

Params = Iterable[Tensor] | Iterable[dict[str, Any]]
Rounding = Literal["nearest", "stochastic"]


class ZerothOrderOptimizer(CompleteState):
    """theta <- theta - lr (sum_i g_i z_i + weight_decay theta), with g from loss values alone.

    A method answers three questions: which random directions (`directions`), what is the gradient,
    as {seed: coefficient} (`estimate`), what step along it (`apply_`).

    Args:
        params: as for any `torch.optim.Optimizer`; groups may set lr and weight_decay. Frozen ones
            are left alone.
        lr: learning rate; a scheduler may change it.
        eps: length of a perturbation.
        weight_decay: coupled to lr, added to the gradient estimate.
        seed: of the private stream of directions; global generators are neither read nor moved.
        perturbation: exact (streaming where a module is given, else copy), streaming, copy,
            two-leg, three-leg, in-place, or as-published (the walk of the method's authors).
        module: the module that the closure runs; needed by streaming.
        directions: any (params, seed) -> one tensor a parameter, in place of the method's own
            family.
        rounding: of moves of bf16 parameters, nearest or stochastic.

    Attributes:
        num_forwards: loss evaluations so far, those that other processes took for this one
            included.
        num_backwards: backward passes so far (0 for every zeroth-order method).
        num_steps: steps so far.
        last: StepReport of the last step, None before the first.
        share: hands the points of a step out over processes that all hold this optimizer in this
            state (`LossOracle`); None, the default, takes them here. Not for walks: each process
            would keep a rounding of its own.
        recorder: called with (self, oracle, gradient) after each step; see bszo.trajectory.

    Raises:
        OptimError: an argument is out of range; `step` without a closure.
        NonFiniteLoss: from `step`; the parameters are where they were before it.
    """

    published_walk: ClassVar[Legs] = "three-leg"
    losses_suffice: ClassVar[bool] = True  # False: the closure's loss is differentiated
    restriction: Restriction | None = None  # set by `restrict`

    def __init__(
        self,
        params: Params,
        *,
        lr: float,
        eps: float,
        weight_decay: float,
        seed: int,
        perturbation: Perturbation,
        module: nn.Module | None,
        directions: DirectionFunction | None,
        rounding: Rounding,
    ) -> None:
        require(0 <= lr < math.inf, f"lr={lr}: a finite number of at least 0 is valid")
        require(0 < eps < math.inf, f"eps={eps}: a positive, finite length is valid")
        require(weight_decay >= 0, f"weight_decay={weight_decay}: a number of at least 0 is valid")
        require(
            perturbation in get_args(Perturbation),
            f"perturbation={perturbation!r}: one of {', '.join(get_args(Perturbation))} is valid",
        )
        require(
            rounding in get_args(Rounding), f"rounding={rounding!r}: nearest or stochastic is valid"
        )
        require(
            perturbation != "streaming" or module is not None,
            "perturbation='streaming' needs module=, the module that the closure runs; without it"
            " 'copy' is exact",
        )
        self.eps, self.seed, self.rounding, self.module = eps, seed, rounding, module
        self.perturbation: Perturbation = perturbation
        self.injected = directions
        self.num_forwards = self.num_backwards = self.num_steps = 0
        self.last: StepReport | None = None
        self.recorder: Callable[[Any, LossOracle, Terms], None] | None = None
        self._failed: LossOracle | None = None
        self.share: Share | None = None
        self._bound: tuple[int, ...] = ()
        self._restricted: Restricted | None = None
        self._block = 0  # that is measured now
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        require(
            len(self.trainable()) > 0,
            "params: no parameter requires a gradient, so none would be trained",
        )
        require(
            not any(map(is_expanded, self.trainable())),
            "params: a parameter is an expanded view, whose elements share memory; its clone is"
            " valid",
        )
        require(
            rounding == "nearest" or any(p.dtype == torch.bfloat16 for p in self.trainable()),
            "rounding='stochastic' is for bfloat16 parameters and there are none: nearest is valid",
        )

    def restrict(
        self,
        *,
        sparsity: float = 0.0,
        mask_scope: MaskScope = "layer",
        mask_interval: int = 100,
        blocks: Split | Literal["none"] = "none",
    ) -> Self:
        """Mask the directions, or estimate block by block; to be said before the first step (see
        `Restriction`).

        Raises:
            OptimError: a value that is out of range, or blocks that the module has none of.
        """
        require(
            self.num_steps == 0,
            f"restrict(): it has made {self.num_steps} steps; before the first is valid",
        )
        self.restriction = Restriction(sparsity, mask_scope, mask_interval, blocks)
        self._restricted = Restricted(self.restriction, self.trainable(), self.module)
        return self

    def step(self, closure: Closure | None = None) -> float:  # type: ignore[override]
        """One step on the closure's batch; returns the loss at theta (central differences: the mean
        of both sides).

        Args:
            closure: () -> the loss of the current batch, a number or a tensor of one element. It is
                called several times a step, must do nothing else, and must be deterministic
                (evaluation mode, no dropout).
        """
        if closure is None:
            raise OptimError("step() needs a closure: () -> the loss of the current batch")
        self._failed = None  # what was not skipped is taken again
        self._bind()
        require(
            self.share is None or not isinstance(self._engine, Walk),
            f"perturbation={self.perturbation!r}: walks cannot share points; exact, streaming or"
            " copy is valid",
        )
        family = self.restricted(self.directions())
        rounding_seed = (
            mix64(self.seed, self.num_steps, -1) if self.rounding == "stochastic" else None
        )
        oracle = LossOracle(
            self._params, closure, family, self._engine, self.num_steps, rounding_seed, self.share
        )
        try:
            gradient, report = self.gradient(oracle)
            self.apply_(oracle, gradient)
        except NonFiniteLoss:
            self._failed = oracle
            raise
        finally:
            self.num_forwards += oracle.num_forwards
            family.release()
        self.num_steps += 1
        self.last = replace(report, losses=tuple(oracle.losses))
        if self.recorder is not None:
            self.recorder(self, oracle, gradient)
        return report.loss

    def skip(self) -> None:
        """Go on past the step that has just raised NonFiniteLoss: its directions are used up, theta
        stays."""
        failed, self._failed = self._failed, None
        require_failed(failed is not None, self.num_steps)
        assert failed is not None
        self.pass_by()
        if self.recorder is not None:
            self.recorder(self, failed, {})

    def directions(self) -> Directions:
        """The family of this step's directions; Gaussian unless a method says otherwise."""
        return self._family

    def restricted(self, family: Directions) -> Directions:
        """A family under this step's mask and in blocks, where `restrict` has asked for them."""
        return (
            family
            if self._restricted is None
            else self._restricted.family(family, self.seed, self.num_steps)
        )

    def gradient(self, oracle: LossOracle) -> tuple[Terms, StepReport]:
        """`estimate`, or one a block, all at the same theta."""
        blocks = self._restricted.blocks if self._restricted else []
        if not blocks:
            return self.estimate(oracle)
        gradient: dict[int, float] = {}
        reports, before = [], self.scalar_state()
        try:
            for self._block in range(len(blocks)):
                terms, report = self.estimate(oracle)
                gradient.update(terms)
                reports.append(report)
        except BaseException:
            for name, value in before.items():  # what earlier blocks have taught the method
                setattr(self, name, value)
            raise
        finally:
            self._block = 0
        return gradient, joined(reports)

    @abstractmethod
    def estimate(self, oracle: LossOracle) -> tuple[Terms, StepReport]:
        """The gradient as {seed: coefficient}, and what was seen. Each method has its own."""
        raise TypeError(f"{type(self).__name__} does not say how it estimates a gradient")

    def apply_(self, oracle: LossOracle, gradient: Terms) -> None:
        """theta <- theta - lr (sum_i g_i z_i + weight_decay theta)."""
        oracle.move_(gradient, self.per_parameter("lr"), self.per_parameter("weight_decay"))

    def direction_seeds(self, count: int) -> list[int]:
        """The seeds of this step: a pure function of (seed, step), so that the stream's state is
        the step count."""
        seeds = [mix64(self.seed, self.num_steps, i) for i in range(count)]
        num_blocks = len(self._restricted.blocks) if self._restricted else 0
        return (
            [seed_in_block(seed, self._block, num_blocks) for seed in seeds]
            if num_blocks
            else seeds
        )

    def trainable(self) -> list[Tensor]:
        """The parameters that move, in the order that numbers their noise."""
        return [p for group in self.param_groups for p in group["params"] if p.requires_grad]

    def per_parameter(self, name: str) -> list[float]:
        """A group's value for each trainable parameter."""
        return [float(g[name]) for g in self.param_groups for p in g["params"] if p.requires_grad]

    def _bind(self) -> None:
        """Build the family and the engine for the parameters that are trainable now."""
        params = self.trainable()
        bound = tuple(id(p) for p in params)
        if bound != self._bound:
            self._bound, self._params = bound, params
            self._family = (
                Injected(params, self.injected) if self.injected else self.make_family(params)
            )
            self._engine = make_engine(self.perturbation, params, self.module, self.published_walk)
            if (
                self.restriction is not None
                and self._restricted
                and bound != self._restricted.bound
            ):
                self._restricted = Restricted(self.restriction, params, self.module)

    def unbind(self) -> None:
        """Build family and engine anew at the next step: what streaming has watched so far was no
        model's pass."""
        self._bound = ()

    def make_family(self, params: Sequence[Tensor]) -> Directions:
        """The family that `directions` starts from."""
        return Gaussian(params)
