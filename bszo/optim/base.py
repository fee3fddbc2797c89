"""Zeroth-order optimizers: what they share, which is one `step`, a private stream of seeds, and a
complete state."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor, nn

from bszo.errors import NonFiniteLoss, OptimError
from bszo.optim.groups import fixed, name_of
from bszo.optim.hyperparameter import Hyperparameter, is_rate, number, whole
from bszo.optim.options import Params, Rounding, require, require_failed
from bszo.optim.report import StepReport, joined
from bszo.optim.saved import Saved
from bszo.optim.signature import spelt_out
from bszo.perturb import (
    Closure,
    DirectionFunction,
    LossOracle,
    Perturbation,
    Share,
    Terms,
    mix64,
    seed_in_block,
)


class ZerothOrderOptimizer(Saved):
    """theta <- theta - lr (sum_i g_i z_i + weight_decay theta), with g from loss values alone.

    A method answers three questions: which random directions (`directions`), what is the gradient,
    as {seed: coefficient} (`estimate`), what step along it (`apply_`). Its hyperparameters are
    declared in its class (`Hyperparameter`) and live in `param_groups`.

    Args:
        params: as for any `torch.optim.Optimizer`; a group may set lr, weight_decay, and the
            arguments of which the method says so. Parameters that require no gradient stay where
            they are.
        lr: learning rate; a scheduler may change it.
        eps: the factor of z in a perturbation, which is about eps sqrt(n) long.
        weight_decay: coupled to lr, added to the gradient estimate.
        seed: of the private stream of directions; global generators are neither read nor moved.
        perturbation: exact (streaming where a module is given, else copy), streaming, factored
            (no linear layer's perturbed weight is made, where directions are of low rank), copy,
            two-leg, three-leg, in-place, or as-published (the walk of the method's authors).
        module: the module that the closure runs; streaming and factored need it.
        directions: any (params, seed) -> one tensor a parameter, in place of the method's own
            family.
        rounding: of moves of bf16 parameters, nearest or stochastic.

    Attributes:
        num_forwards: loss evaluations so far, those that other processes took for this one
            included.
        num_backwards: backward passes so far (0 for every zeroth-order method).
        num_passes: what both cost, in forward passes (see `bszo.costs`).
        num_steps: steps so far.
        last: StepReport of the last step, None before the first.
        share: hands the points of a step out over processes that all hold this optimizer in this
            state (`LossOracle.measure`); None, the default, takes them here. Walks cannot have it:
            each process would keep a rounding of its own. Slopes, and losses of single examples,
            are not shared.
        recorder: called with (self, oracle, gradient) after each step; see bszo.trajectory.

    Raises:
        OptimError: an argument is out of range, or a group has a key that is none of the
            optimizer's; from `step`, no closure, one that returns something else than one number
            or that differentiates, directions without thin factors where perturbation="factored",
            or a hyperparameter that has become invalid.
        NonFiniteLoss: from `step`; the parameters are where they were before it, of a walk up to
            its rounding.

    Example:
        >>> import torch
        >>> from bszo.optim import StepReport, ZerothOrderOptimizer
        >>> class OneSided(ZerothOrderOptimizer):
        ...     def estimate(self, oracle):
        ...         (seed,) = self.direction_seeds(1)
        ...         f_0, f_plus = oracle.measure([{}, {seed: self.eps}])
        ...         y = (f_plus - f_0) / self.eps
        ...         return {seed: y}, StepReport(f_0, (y,))
        >>> theta = torch.nn.Parameter(torch.ones(5))
        >>> optimizer = OneSided([theta], lr=0.01, eps=1e-3)
        >>> losses = [optimizer.step(lambda: theta.square().sum()) for _ in range(50)]
        >>> losses[-1] < losses[0], optimizer.num_forwards
        (True, 100)
    """

    per_example: ClassVar[bool] = False  # True: the closure returns a loss an example
    losses_suffice: ClassVar[bool] = True  # False: the closure's loss is differentiated
    reads_inputs: ClassVar[bool] = False  # True: directions come from what the batch is in layers

    lr = Hyperparameter[float](
        number, is_rate, "a finite number of at least 0 is valid", scope="group"
    )
    weight_decay = Hyperparameter[float](
        number, is_rate, "a finite number of at least 0 is valid", scope="group"
    )
    eps = Hyperparameter[float](
        number, lambda eps: eps > 0 and is_rate(eps), "a positive, finite length is valid"
    )

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Show the shared keyword arguments by name to whoever asks for the class's signature."""
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            cls.__signature__ = spelt_out(cls, ZerothOrderOptimizer)

    def __init__(
        self,
        params: Params,
        *,
        lr: float,
        eps: float = 1e-4,
        weight_decay: float = 0.0,
        seed: int = 0,
        perturbation: Perturbation = "exact",
        module: nn.Module | None = None,
        directions: DirectionFunction | None = None,
        rounding: Rounding = "nearest",
    ) -> None:
        self.lr, self.eps, self.weight_decay = lr, eps, weight_decay
        require(
            perturbation in get_args(Perturbation),
            f"perturbation={perturbation!r}: one of {', '.join(get_args(Perturbation))} is valid",
        )
        require(
            rounding in get_args(Rounding), f"rounding={rounding!r}: nearest or stochastic is valid"
        )
        require(
            perturbation not in ("streaming", "factored") or module is not None,
            f"perturbation={perturbation!r} needs module=, the module that the closure runs;"
            " without it 'copy' is exact",
        )
        try:
            self.seed = whole(seed)
        except (TypeError, ValueError, RuntimeError) as error:
            raise OptimError(f"seed={seed!r}: an integer is valid") from error
        self.rounding, self.module = rounding, module
        self.perturbation: Perturbation = perturbation
        self.injected = directions
        self.num_forwards = self.num_backwards = self.num_steps = 0
        self.last: StepReport | None = None
        self.recorder: Callable[[Any, LossOracle, Terms], None] | None = None
        self.share: Share | None = None
        self.trial: int | None = None  # the seed of directions while `find_lr` tries a rate
        self._failed: LossOracle | None = None
        self._block = 0  # that is measured now
        self._fixed = fixed(type(self), self.defaults)
        super().__init__(params, self.defaults)
        self._complete = True
        trainable = self.trainable()
        require(
            len(trainable) > 0, "params: no parameter requires a gradient, so none would be trained"
        )
        require(
            not any(map(_is_expanded, trainable)),
            "params: a parameter is an expanded view, whose elements share memory; its clone is"
            " valid",
        )
        require(
            rounding == "nearest" or any(p.dtype == torch.bfloat16 for p in trainable),
            "rounding='stochastic' is for bfloat16 parameters and there are none: nearest is valid",
        )

    @property
    def num_passes(self) -> int:
        return self.num_forwards

    def settings(self) -> dict[str, Any]:
        """What sets this optimizer apart from others on the same parameters, as plain values: what
        its repr adds to torch's, and what the header of a trajectory says.

        A value a group, where groups differ, is a list; lr and weight_decay are left out.
        """
        found = self._group_settings()
        found |= {
            "seed": self.seed,
            "perturbation": self.perturbation,
            "rounding": self.rounding,
            "injected": name_of(self.injected),
        }
        if self.module is None:
            found["module"] = None
        if self.restriction is not None:
            found |= {f"restriction.{key}": v for key, v in asdict(self.restriction).items()}
        return found

    def __repr__(self) -> str:
        shown = {k: v for k, v in self.settings().items() if k not in self.defaults}
        rest = ", ".join(f"{key}: {value}" for key, value in shown.items() if value is not None)
        return f"{super().__repr__().removesuffix(')')}{rest}\n)"

    def step(self, closure: Closure | None = None) -> float:  # type: ignore[override]
        """One step on the closure's batch; returns the loss at theta, or what stands for it where
        theta is not evaluated (`StepReport.loss`).

        Args:
            closure: () -> the loss of the current batch, a number or a tensor of one element; where
                `per_example` is true, the loss of each example, (B,). It is called several times a
                step, must do nothing else, and must be deterministic (evaluation mode, no dropout).
        """
        if closure is None:
            raise OptimError("step() needs a closure: () -> the loss of the current batch")
        self._failed = None  # what was not skipped is taken again
        self.check()
        self._bind()
        require(
            self.share is None or self.exact,
            f"perturbation={self.perturbation!r}: walks cannot share points; exact, streaming or"
            " copy is valid",
        )
        if self.module is not None:
            self._engine.doubts.training(self.module)
        family = self.restricted(self.directions())
        reach = tuple(self.reach())
        rounding_seed = (
            mix64(self.seed, self.num_steps, -1) if self.rounding == "stochastic" else None
        )
        # the bits that a failed walk would leave are in no log
        kept = self.recorder is not None and not self.exact
        before = [p.detach().clone() for p in self._params] if kept else []
        oracle = LossOracle(
            self._params, closure, family, self._engine, self.num_steps, rounding_seed, self.share
        )
        try:
            gradient, report = self.gradient(oracle)
            self.apply_(oracle, gradient)
        except NonFiniteLoss:
            self._failed = oracle
            with torch.no_grad():
                for p, value in zip(self._params, before, strict=bool(before)):
                    p.copy_(value)
            raise
        finally:
            self.num_forwards += oracle.num_forwards
            family.release()
        self.num_steps += 1
        self.last = replace(report, losses=tuple(oracle.losses), reach=reach)
        if self.recorder is not None:
            self.recorder(self, oracle, gradient)
        return report.loss

    def skip(self) -> None:
        """Go on past the step that has just raised NonFiniteLoss: its directions are used up, theta
        stays as that step has left it. A walk that is recorded has gone back to its bits."""
        failed = self._failed
        require_failed(failed is not None, self.num_steps)
        assert failed is not None
        self.pass_by()
        if self.recorder is not None:
            self.recorder(self, failed, {})

    def pass_by(self) -> None:
        """Count a step that moves nothing; its directions are used up."""
        self._failed = None
        self.num_steps += 1

    def gradient(self, oracle: LossOracle) -> tuple[Terms, StepReport]:
        """`estimate`, or one estimate a block, all at the same theta."""
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
        seed = self.seed if self.trial is None else self.trial
        seeds = [mix64(seed, self.num_steps, i) for i in range(count)]
        num_blocks = len(self._restricted.blocks) if self._restricted else 0
        return (
            [seed_in_block(seed, self._block, num_blocks) for seed in seeds]
            if num_blocks
            else seeds
        )

    def next_forwards(self) -> int | None:
        """Forward passes of the step that comes next, where they change from step to step; None:
        every step takes as many as the last one."""
        return None

    def __getstate__(self) -> dict[str, Any]:
        """What a copy takes along: all but `recorder` and `share`, and the step that has failed."""
        return {**super().__getstate__(), "_failed": None, "recorder": None, "share": None}


def _is_expanded(p: Tensor) -> bool:
    """Whether elements share memory, so that none can be written alone."""
    return any(size > 1 and step == 0 for size, step in zip(p.shape, p.stride(), strict=True))
