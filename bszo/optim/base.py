"""Zeroth-order optimizers: what they share, which is one `step`, a private stream of seeds, and a
complete state."""

import copy
import functools
import inspect
import typing
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any, ClassVar, Literal, Self, get_args

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from bszo.errors import NonFiniteLoss, OptimError
from bszo.optim.copied import Copied
from bszo.optim.hyperparameter import Hyperparameter, hyperparameters, is_rate, number, whole
from bszo.optim.options import Params, Rounding, require
from bszo.optim.report import StepReport, joined
from bszo.optim.restriction import Restricted, Restriction
from bszo.perturb import (
    Closure,
    DirectionFunction,
    Directions,
    Gaussian,
    Injected,
    Legs,
    LossOracle,
    MaskScope,
    Numbered,
    Perturbation,
    Share,
    Split,
    Terms,
    Unpadded,
    engine_class,
    make_engine,
    mix64,
    padding_rows,
    seed_in_block,
)

# what torch and its schedulers keep in a group beside the optimizer's own hyperparameters
TORCH_KEYS = (
    "params",
    "param_names",
    "differentiable",
    "initial_lr",
    "max_lr",
    "min_lr",
    "base_momentum",
    "max_momentum",
    "swa_lr",
)
RATES = ("lr", "weight_decay")  # schedules move them, so that they are no setting of a run


class ZerothOrderOptimizer(Copied):
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

    published_walk: ClassVar[Legs] = "three-leg"
    per_example: ClassVar[bool] = False  # True: the closure returns a loss an example
    losses_suffice: ClassVar[bool] = True  # False: the closure's loss is differentiated
    reads_inputs: ClassVar[bool] = False  # True: directions come from what the batch is in layers
    restriction: Restriction | None = None  # set by `restrict`

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
            cls.__signature__ = _spelt_out(cls)

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
        self._failed: LossOracle | None = None
        self._bound: tuple[int, ...] = ()
        self._numbered: list[Tensor] = []  # all that have trained, in the order in which they began
        self._restricted: Restricted | None = None
        self._block = 0  # that is measured now
        super().__init__(params, self.defaults)
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

    # Hyperparameters

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as for any torch optimizer.

        Raises:
            OptimError: it has a key that is none of the optimizer's, a value that is out of range,
                or one that differs from the other groups' where all must have the same; or one of
                its parameters has no shape yet.
        """
        known = _hyperparameters(type(self))
        if isinstance(param_group, dict):
            refuse_strange_keys(param_group, known, type(self).__name__)
            for name in known if self.param_groups else ():
                if known[name].scope != "group":
                    param_group.setdefault(name, self.param_groups[0][name])
        super().add_param_group(param_group)
        try:
            group, at = self.param_groups[-1], f" in group {len(self.param_groups) - 1}"
            require(
                not any(map(is_lazy, group["params"])),
                f"params{at}: a parameter of a lazy module has no shape yet; the optimizer can be"
                " built after the module's first forward pass",
            )
            for name, hyperparameter in known.items():
                group[name] = hyperparameter.checked(group[name], at)
            self.check()
        except OptimError:
            self.param_groups.pop()
            raise

    def check(self) -> None:
        """OptimError unless every group's hyperparameters are in range, and the same in all groups
        where the optimizer has one for all.

        Each step begins with it, since schedulers and users write into groups.
        """
        for name, hyperparameter in _hyperparameters(type(self)).items():
            for i, group in enumerate(self.param_groups):
                value = hyperparameter.checked(group[name], f" in group {i}")
                if hyperparameter.scope != "group":
                    built = hyperparameter.scope == "construction"
                    wanted = (self.defaults if built else self.param_groups[0])[name]
                    require(
                        value == wanted,
                        f"{name}={value!r} in group {i}: the optimizer has one for all its groups"
                        f"{', for life' if built else ''}; {wanted!r} is valid",
                    )

    def settings(self) -> dict[str, Any]:
        """What sets this optimizer apart from others on the same parameters, as plain values: what
        its repr adds to torch's, and what the header of a trajectory says.

        A value a group, where groups differ, is a list; lr and weight_decay are left out.
        """
        found: dict[str, Any] = {}
        for name, hyperparameter in _hyperparameters(type(self)).items():
            values = [_plain(group[name]) for group in self.param_groups]
            if name not in RATES and values[0] != hyperparameter.unsaid:
                found[name] = values[0] if all(v == values[0] for v in values) else values
        found |= {
            "seed": self.seed,
            "perturbation": self.perturbation,
            "rounding": self.rounding,
            "injected": self.injected
            and getattr(self.injected, "__qualname__", type(self.injected).__qualname__),
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

    # The step

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
        family = self.restricted(self.directions())
        reach = tuple(self.reach())
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
        self.last = replace(report, losses=tuple(oracle.losses), reach=reach)
        if self.recorder is not None:
            self.recorder(self, oracle, gradient)
        return report.loss

    def skip(self) -> None:
        """Go on past the step that has just raised NonFiniteLoss: its directions are used up, theta
        stays as that step has left it."""
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

    @property
    def exact(self) -> bool:
        """Whether theta is the same to the bit after a perturbed pass (`Engine.exact`)."""
        return engine_class(self.perturbation, self.module).exact

    def directions(self) -> Directions:
        """The family of this step's directions; Gaussian unless a method says otherwise."""
        return self._family

    def restricted(self, family: Directions) -> Directions:
        """The family with padding rows left out, masked and cut into blocks where `restrict` asked
        for it."""
        if self._padding:
            family = Unpadded(family, self._padding)
        return (
            family
            if self._restricted is None
            else self._restricted.family(family, self.seed, self.num_steps)
        )

    def reach(self) -> Sequence[float]:
        """The share of each trainable parameter's elements that this step's directions can move;
        empty where nothing is masked."""
        return () if self._restricted is None else self._restricted.reach()

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
        seeds = [mix64(self.seed, self.num_steps, i) for i in range(count)]
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

    # The parameters

    def _all(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def trainable(self) -> list[Tensor]:
        """The parameters that move, in the order of the groups."""
        return [p for group in self.param_groups for p in group["params"] if p.requires_grad]

    def per_parameter(self, name: str) -> list[float]:
        """A group's number for each trainable parameter."""
        return [float(g[name]) for g in self.param_groups for p in g["params"] if p.requires_grad]

    def with_groups(self) -> Iterator[tuple[int, Tensor, dict[str, Any]]]:
        """Each trainable parameter with its place among them and its group, rates as numbers."""
        pairs = [(p, g) for g in self.param_groups for p in g["params"] if p.requires_grad]
        for i, (p, group) in enumerate(pairs):
            yield i, p, {**group, **{name: float(group[name]) for name in RATES}}

    def _bind(self) -> None:
        """Build the family and the engine for the parameters that are trainable now."""
        params = self.trainable()
        bound = tuple(id(p) for p in params)
        if bound == self._bound:
            return
        require(bool(params), "step(): no parameter requires a gradient, so none would be trained")
        known = {id(p) for p in self._numbered}
        self._numbered = [*self._numbered, *(p for p in params if id(p) not in known)]
        self._bound, self._params = bound, params
        self._family = self.numbered(
            lambda all_params: (
                Injected(all_params, self.injected)
                if self.injected
                else self.make_family(all_params)
            )
        )
        self._padding = padding_rows(params, self.module)
        self._engine = make_engine(self.perturbation, params, self.module, self.published_walk)
        if self._restricted and bound != self._restricted.bound:
            self._restricted = self._restricted.on(params, self.module)

    def numbered(self, make: Callable[[Sequence[Tensor]], Directions]) -> Directions:
        """A family of the parameters that train now, each with the number that it got when it first
        trained.

        The number names its noise and its basis. So what a method remembers of a parameter stays
        true of it while others are frozen, unfrozen or added.

        Args:
            make: (parameters) -> the family over all of these, which are in the order of their
                numbers.
        """
        numbers, family = self.numbers(), make(self._numbered)
        everything = tuple(range(len(self._numbered)))
        return family if numbers == everything else Numbered(family, numbers)

    def numbers(self) -> tuple[int, ...]:
        """The number of each parameter that trains now (see `numbered`)."""
        place = {id(p): number for number, p in enumerate(self._numbered)}
        return tuple(place[id(p)] for p in self._params)

    def unbind(self) -> None:
        """Build family and engine anew at the next step: what streaming has watched so far was no
        model's pass."""
        self._bound = ()

    def make_family(self, params: Sequence[Tensor]) -> Directions:
        """The family that `directions` starts from."""
        return Gaussian(params)

    # The state

    def scalar_state(self) -> dict[str, Any]:
        """Attributes of the method beside the counters that a later step depends on."""
        return {}

    def state_dict(self) -> dict[str, Any]:  # type: ignore[override]
        """torch's state with one more entry: counters, seed and the method's scalars. Nothing else
        is needed."""
        own = {
            "method": type(self).__name__,
            "seed": self.seed,
            "num_steps": self.num_steps,
            "num_forwards": self.num_forwards,
            "num_backwards": self.num_backwards,
            **self.scalar_state(),
        }
        places = {id(p): i for i, p in enumerate(self._all())}
        own["numbered"] = [places.get(id(p)) for p in self._numbered]
        if self._restricted is not None:
            own["restriction"] = self._restricted.state()
        return {**super().state_dict(), "zeroth_order": own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue bit for bit from a `state_dict` of the same method with the same settings.

        What a group may have of its own is loaded with it, as torch does; so are seed and counters.

        Raises:
            OptimError: another method saved it, or one with other hyperparameters or under another
                restriction; nothing is loaded then.
        """
        if "zeroth_order" not in state_dict:
            raise OptimError(
                "state_dict has no entry 'zeroth_order': it was not saved by one of these"
                " optimizers"
            )
        own = dict(state_dict["zeroth_order"])
        method = own.pop("method", None)
        if method != type(self).__name__:
            raise OptimError(
                f"state_dict was saved by {method}; one of {type(self).__name__} is valid"
            )
        restriction = own.pop("restriction", None)
        self._require_same(state_dict["param_groups"], own, restriction)
        # an older state lacks what its version kept elsewhere or did not have
        mine = {name: self.defaults[name] for name in _hyperparameters(type(self))}
        groups = [{**mine, **group} for group in state_dict["param_groups"]]
        super().load_state_dict({"state": state_dict["state"], "param_groups": groups})
        self._restore_types(state_dict)
        everything = self._all()
        self._numbered = [
            everything[place] if place is not None else torch.empty(0)  # one that has left
            for place in own.get("numbered", ())
        ]
        self.load_scalars(own)
        if self._restricted is not None:
            self._restricted.load(restriction)
        self.unbind()

    def load_scalars(self, saved: dict[str, Any]) -> None:
        """Take over counters, seed and `scalar_state` from a saved state."""
        counters = ("seed", "num_steps", "num_forwards", "num_backwards")
        for name in (*counters, *self.scalar_state()):
            if name in saved:
                setattr(self, name, saved[name])

    def _require_same(
        self, groups: Sequence[dict[str, Any]], own: dict[str, Any], restriction: Any
    ) -> None:
        """OptimError unless the state was saved with these hyperparameters and this restriction."""
        loaded = self.scalar_state()
        for name, hyperparameter in _hyperparameters(type(self)).items():
            if hyperparameter.scope == "group" or name in loaded:
                continue
            here = getattr(self, name)
            for saved in (*groups, own):
                require(
                    name not in saved or _plain(saved[name]) == _plain(here),
                    f"state_dict was saved with {name}={saved.get(name)!r}, here it is {here!r};"
                    " an optimizer that was built with the same is valid",
                )
        here = self.restriction and asdict(self.restriction)
        require(
            (restriction and {key: restriction[key] for key in restriction if key != "zeros"})
            == here,
            f"state_dict was saved under restrict("
            f"{restriction and {**restriction, 'zeros': None}}), here it is {here}",
        )
        if self._restricted is not None:
            self._restricted.require_same(restriction)

    def _restore_types(self, state_dict: dict[str, Any]) -> None:
        """torch casts loaded state to the parameter's type, which would round fp32 moments of
        16-bit parameters."""
        numbers = [i for group in state_dict["param_groups"] for i in group["params"]]
        for position, p in zip(numbers, self._all(), strict=True):
            for name, value in state_dict["state"].get(position, {}).items():
                self.state[p][name] = (
                    value.to(p.device).clone()
                    if isinstance(value, Tensor)
                    else copy.deepcopy(value)
                )

    def __getstate__(self) -> dict[str, Any]:
        """The state without what is bound to these very tensors, which is made anew at the next
        step, and without `recorder` and `share`."""
        bound = ("_params", "_family", "_engine")
        kept = {name: value for name, value in super().__getstate__().items() if name not in bound}
        return {**kept, "_bound": (), "_failed": None, "recorder": None, "share": None}


def require_failed(failed: bool, step: int) -> None:
    """OptimError unless the last step raised NonFiniteLoss, which alone may be skipped."""
    require(failed, f"skip() at step {step}: only a step that raised NonFiniteLoss can be skipped")


def refuse_strange_keys(group: dict[str, Any], known: typing.Iterable[str], who: str) -> None:
    """OptimError for a group's key that nobody would read."""
    strange = sorted(str(key) for key in group.keys() - {*known, *TORCH_KEYS})
    require(
        not strange,
        f"params: a group has the key {strange[0] if strange else ''!r:.80}, which {who} has no use"
        f" for; {', '.join(sorted(known))} are valid",
    )


_hyperparameters = functools.cache(hyperparameters)


def _plain(value: Any) -> Any:
    """A tuple as the list that it is in JSON."""
    return list(value) if isinstance(value, tuple) else value


def _is_expanded(p: Tensor) -> bool:
    """Whether elements share memory, so that none can be written alone."""
    return any(size > 1 and step == 0 for size, step in zip(p.shape, p.stride(), strict=True))


def _spelt_out(cls: type) -> inspect.Signature:
    """The constructor's signature with `**options: Unpack[Options]` as the arguments it stands
    for."""
    _, *own = inspect.signature(cls.__init__).parameters.values()
    base = dict(inspect.signature(ZerothOrderOptimizer.__init__).parameters)
    for parent in cls.__mro__[1:]:  # what is not every optimizer's: the nearest that names it
        if issubclass(parent, ZerothOrderOptimizer):
            base = {**inspect.signature(parent.__init__).parameters, **base}
    hints = typing.get_type_hints(cls.__init__, include_extras=True)
    spelt: list[inspect.Parameter] = []
    for parameter in own:
        unpacked = get_args(hints.get(parameter.name))
        if parameter.kind is not parameter.VAR_KEYWORD or not unpacked:
            spelt.append(parameter)
            continue
        taken = {p.name for p in own}
        spelt += [
            base[name].replace(kind=parameter.KEYWORD_ONLY, annotation=hint)
            for name, hint in typing.get_type_hints(unpacked[0]).items()
            if name not in taken
        ]
    return inspect.Signature(spelt)
