"""First-order baselines: any optimizer of torch behind the `step(closure)` of the others."""

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bszo.costs import BACKWARD
from bszo.errors import NonFiniteLoss, OptimError
from bszo.optim.copied import Copied
from bszo.optim.groups import refuse_strange_keys
from bszo.optim.options import Params, require, require_failed
from bszo.optim.report import StepReport
from bszo.perturb import Closure, repeated_modules

Algorithm = Callable[[Any], torch.optim.Optimizer]


class FirstOrder(Copied):
    """theta <- algorithm(theta, grad L(theta)).

    Forward passes a step: 1. Backward passes a step: 1, in which the layers run forward once more
    if gradient_checkpointing is on. Extra memory: n elements of the parameters' type for the
    gradients, what the algorithm keeps (2 n for AdamW), and the activations.

    Args:
        params: parameters or groups.
        algorithm: params -> a torch optimizer, for example `functools.partial(torch.optim.AdamW,
            lr=1e-4)`.
        gradient_checkpointing: only the activations at the borders of the repeated modules are
            kept, and the others are computed again in the backward pass. It takes a third more time
            and far less memory. The closure must not ask the model for a cache.
        module: the repeated modules are looked for in it; nothing else needs it.
        seed: has no effect, since nothing here is random; every optimizer takes one.

    Attributes:
        num_forwards, num_backwards, num_passes, num_steps, last: as in ZerothOrderOptimizer.

    Raises:
        NonFiniteLoss: from `step`, before the backward pass; the parameters have not moved.
        OptimError: gradient_checkpointing without repeated modules; arguments that the algorithm
            cannot take; an eps that the parameters' type rounds to zero.

    Source: Loshchilov and Hutter 2019, arXiv 1711.05101 (AdamW); Chen et al. 2016, arXiv 1604.06174
        (checkpointing).

    Example:
        >>> from functools import partial
        >>> import torch
        >>> from bszo import FirstOrder
        >>> theta = torch.nn.Parameter(torch.ones(6))
        >>> optimizer = FirstOrder([theta], algorithm=partial(torch.optim.AdamW, lr=0.1))
        >>> losses = [optimizer.step(lambda: theta.square().sum()) for _ in range(20)]
        >>> losses[-1] < losses[0], optimizer.num_backwards
        (True, 20)
    """

    per_example: ClassVar[bool] = False  # the closure returns one loss

    def __init__(
        self,
        params: Params,
        *,
        algorithm: Algorithm,
        gradient_checkpointing: bool = False,
        seed: int = 0,
        module: nn.Module | None = None,
    ) -> None:
        self._layers: list[nn.Module] = []
        if gradient_checkpointing:
            self._layers = _layers_of(module)
        params = list(params)  # type: ignore[assignment]
        self.algorithm = _built(algorithm, params)
        closure = inspect.signature(type(self.algorithm).step).parameters.get("closure")
        require(
            closure is None or closure.default is None,
            f"algorithm: {type(self.algorithm).__name__} calls the closure itself, as often as it"
            " likes; one that takes a gradient, such as AdamW, is valid",
        )
        for group in params:
            if isinstance(group, dict):
                self._check_group(group)
        _require_eps(self.algorithm)
        super().__init__(self.algorithm.param_groups, self.algorithm.defaults)
        self.param_groups, self.state = self.algorithm.param_groups, self.algorithm.state
        self.num_forwards = self.num_backwards = self.num_steps = 0
        self.last: StepReport | None = None
        self._failed = False

    def _check_group(self, group: dict[str, Any]) -> None:
        """OptimError for what the algorithm would not read."""
        name = type(self.algorithm).__name__
        refuse_strange_keys(group, {*self.algorithm.defaults, "lr", "weight_decay"}, name)
        decay = group.get("weight_decay", 0)
        require(
            not decay or "weight_decay" in self.algorithm.defaults,
            f"weight_decay={decay!r}: {name} has none; 0 is valid",
        )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as for any torch optimizer.

        Raises:
            OptimError: it has a key or a weight decay that the algorithm has no use for.
        """
        # those that it is built with are checked before the algorithm has filled them
        if isinstance(param_group, dict) and hasattr(self, "_failed"):
            self._check_group(param_group)
        super().add_param_group(param_group)

    @property
    def num_passes(self) -> int:
        return self.num_forwards + BACKWARD * self.num_backwards

    def step(self, closure: Closure | None = None) -> float:  # type: ignore[override]
        """Take one step on the closure's batch and return the loss before it."""
        value = self.backward(closure)
        self.move_()
        self.last = StepReport(value, ())
        return value

    def backward(self, closure: Closure | None) -> float:
        """Take the first half of a step: put the gradient into the parameters' `grad`, and return
        the loss."""
        if closure is None:
            raise OptimError("step() needs a closure: () -> the loss of the current batch")
        with torch.enable_grad(), _checkpointed(self._layers):
            loss = closure()
            self.num_forwards += 1
            if not isinstance(loss, Tensor) or loss.numel() != 1:
                raise OptimError(
                    f"closure() returned {type(loss).__name__} {loss!r}; a tensor of one element is"
                    " valid"
                )
            value = float(loss.detach())
            self._failed = not math.isfinite(value)
            if self._failed:
                raise NonFiniteLoss(self.num_steps, value)
            self.algorithm.zero_grad(set_to_none=True)
            try:
                loss.backward()
            except RuntimeError as error:
                if "does not require grad" in str(error):
                    raise OptimError(
                        "closure(): its loss depends on no parameter that requires a gradient, so"
                        " that none would be trained"
                    ) from error
                if "second time" not in str(error):
                    raise
                raise OptimError(
                    "closure(): has called backward() on the loss that it returns; the optimizer"
                    " does it, and a closure without backward() is valid"
                ) from error
            self.num_backwards += 1
        self._require_finite()
        return value

    def _require_finite(self) -> None:
        """NonFiniteLoss for a gradient that is not finite, which would take the parameters along;
        it is dropped."""
        for p in (p for group in self.param_groups for p in group["params"]):
            if p.grad is None:
                continue
            grad = p.grad.coalesce().values() if p.grad.is_sparse else p.grad
            if not bool(grad.isfinite().all()):
                value = float(grad[~grad.isfinite()][0])
                self.algorithm.zero_grad(set_to_none=True)
                self._failed = True
                raise NonFiniteLoss(self.num_steps, value, what="gradient")

    def move_(self) -> None:
        """Take the second half of a step: move the parameters and drop their gradients."""
        self.algorithm.step()
        self.algorithm.zero_grad(set_to_none=True)
        self.num_steps += 1

    def skip(self) -> None:
        """Count the step that has just raised NonFiniteLoss, and leave the parameters in place."""
        require_failed(self._failed, self.num_steps)
        self.pass_by()

    def pass_by(self) -> None:
        """Count a step that moves nothing."""
        self._failed = False
        self.num_steps += 1

    def state_dict(self) -> dict[str, Any]:  # type: ignore[override]
        counters = {
            "num_forwards": self.num_forwards,
            "num_backwards": self.num_backwards,
            "num_steps": self.num_steps,
            "algorithm": type(self.algorithm).__name__,
        }
        return {**self.algorithm.state_dict(), "counters": counters}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a `state_dict` that the same algorithm has saved."""
        if "counters" not in state_dict:
            raise OptimError("state_dict has no entry 'counters': it was not saved by FirstOrder")
        name, counters = type(self.algorithm).__name__, dict(state_dict["counters"])
        saved = counters.pop("algorithm", name)  # an older state does not say
        require(saved == name, f"state_dict was saved by {saved}; one of {name} is valid")
        self.algorithm.load_state_dict(
            {key: value for key, value in state_dict.items() if key != "counters"}
        )
        self.param_groups, self.state = self.algorithm.param_groups, self.algorithm.state
        for counter, value in counters.items():
            setattr(self, counter, value)


def _built(algorithm: Algorithm, params: Params) -> torch.optim.Optimizer:
    """Build the algorithm, with every error of it as one OptimError.

    torch's optimizers name a value that is out of range. For one of the wrong type they fail where
    they first compare or unpack it, with a message that does not name it.
    """
    try:
        return algorithm(params)
    except (IndexError, TypeError, ValueError) as error:
        given = ", ".join(
            f"{name}={value}" for name, value in getattr(algorithm, "keywords", {}).items()
        )
        raise OptimError(
            f"algorithm: cannot be built with {given or 'what it is given'}: {error}"
        ) from error


def _require_eps(algorithm: torch.optim.Optimizer) -> None:
    """OptimError if the algorithm's eps becomes 0 in the type of a parameter.

    torch computes moments and eps in that type, and with an eps of 0 it divides 0 by 0.
    """
    for group in algorithm.param_groups:
        for dtype in {p.dtype for p in group["params"]}:
            eps = float(group.get("eps", 1.0))
            if eps > 0 and float(torch.tensor(eps, dtype=dtype, device="cpu")) == 0:
                raise OptimError(
                    f"algorithm.eps={eps:g}: is zero in {str(dtype).removeprefix('torch.')};"
                    " 1e-4 is valid, or precision=bf16"
                )


def _layers_of(module: nn.Module | None) -> list[nn.Module]:
    """The repeated modules, at whose borders activations are kept."""
    if module is None:
        raise OptimError(
            "gradient_checkpointing=True: needs module=, whose layers are checkpointed; false needs"
            " none"
        )
    try:
        return list(repeated_modules(module)[1])
    except OptimError as error:
        raise OptimError(
            f"gradient_checkpointing=True: {error} to checkpoint; false is valid"
        ) from error


@contextmanager
def _checkpointed(layers: Sequence[nn.Module]) -> Iterator[None]:
    """While active, the layers keep no activations but compute them again in the backward pass.

    The switch that transformers has for this acts in training mode alone, and models are in
    evaluation mode here.
    """
    with ExitStack() as stack:
        for layer in layers:
            own, forward = "forward" in vars(layer), layer.forward
            layer.forward = partial(
                checkpoint, forward, use_reentrant=False, preserve_rng_state=False
            )
            (
                stack.callback(setattr, layer, "forward", forward)
                if own
                else stack.callback(delattr, layer, "forward")
            )
        yield
