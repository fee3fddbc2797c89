"""First-order baselines behind the same step(closure)."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bszo.errors import NonFiniteLoss, OptimError
from bszo.optim.base import Params, StepReport
from bszo.perturb import Closure

Algorithm = Callable[[Any], torch.optim.Optimizer]


class FirstOrder(torch.optim.Optimizer):
    """theta <- algorithm(theta, grad L(theta)): one forward and one backward pass a step.

    Args:
        params: parameters or groups.
        algorithm: params -> a torch optimizer, for example `functools.partial(torch.optim.AdamW, lr=1e-4)`.
        seed, module: taken so that every optimizer is built alike; nothing here is random.

    Attributes:
        num_forwards, num_backwards, num_steps, last: as in ZerothOrderOptimizer.

    Raises:
        NonFiniteLoss: before the backward pass; the parameters have not moved.
    """

    def __init__(self, params: Params, *, algorithm: Algorithm, seed: int = 0, module: nn.Module | None = None) -> None:
        self.algorithm = algorithm(params)
        super().__init__(self.algorithm.param_groups, self.algorithm.defaults)
        self.param_groups, self.state = self.algorithm.param_groups, self.algorithm.state
        self.num_forwards = self.num_backwards = self.num_steps = 0
        self.last: StepReport | None = None

    def step(self, closure: Closure | None = None) -> float:  # type: ignore[override]
        """One step on the closure's batch; returns the loss before it."""
        if closure is None:
            raise OptimError("step() needs a closure: () -> the loss of the current batch")
        with torch.enable_grad():
            loss = closure()
            self.num_forwards += 1
            if not isinstance(loss, Tensor) or loss.numel() != 1:
                raise OptimError(f"closure() returned {type(loss).__name__} {loss!r}; a tensor of one element is valid")
            value = float(loss.detach())
            if not math.isfinite(value):
                raise NonFiniteLoss(self.num_steps, value)
            self.algorithm.zero_grad(set_to_none=True)
            loss.backward()
            self.num_backwards += 1
        self.algorithm.step()
        self.algorithm.zero_grad(set_to_none=True)
        self.num_steps += 1
        self.last = StepReport(value, ())
        return value

    def skip(self) -> None:
        """Go on past a step that raised NonFiniteLoss; nothing has moved."""
        self.num_steps += 1

    def state_dict(self) -> dict[str, Any]:  # type: ignore[override]
        counters = {"num_forwards": self.num_forwards, "num_backwards": self.num_backwards, "num_steps": self.num_steps}
        return {**self.algorithm.state_dict(), "counters": counters}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a `state_dict` of the same algorithm."""
        if "counters" not in state_dict:
            raise OptimError("state_dict has no entry 'counters': it was not saved by FirstOrder")
        self.algorithm.load_state_dict({key: value for key, value in state_dict.items() if key != "counters"})
        self.param_groups, self.state = self.algorithm.param_groups, self.algorithm.state
        for name, value in state_dict["counters"].items():
            setattr(self, name, value)
