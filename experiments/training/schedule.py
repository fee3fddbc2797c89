"""Schedule of a run: which steps an evaluation, a checkpoint and the end follow.

It depends on what has been done and on nothing else, so that a resumed run has the same schedule.
"""

import logging
from typing import Any

from bszo.costs import BACKWARD
from bszo.errors import ConfigError
from experiments.config.schema import Protocol
from experiments.records.passes import taken
from experiments.training.result import Result

log = logging.getLogger("experiments")


class Schedule:
    """A run's budget and intervals.

    Args:
        protocol: how long to train, how often to evaluate and save.
        optimizer: counts its forward passes; its groups hold the learning rates.

    Attributes:
        lrs: the rate of each group at the start.
    """

    def __init__(self, protocol: Protocol, optimizer: Any) -> None:
        self.protocol, self.optimizer = protocol, optimizer
        self.lrs = [group["lr"] for group in optimizer.param_groups]

    def length(self, result: Result) -> dict[str, Any]:
        """Arguments of the progress bar: passes where they bound the run, else steps."""
        if self.protocol.max_forwards is None:
            return {"total": self.protocol.num_steps, "unit": "step", "initial": result.num_steps}
        return {
            "total": self.protocol.max_forwards,
            "unit": "pass",
            "initial": taken(self.optimizer),
        }

    def evaluation_is_due(self, result: Result) -> bool:
        """Whether an evaluation follows this step: after each interval, and once at the end."""
        at_border = result.num_steps % self.protocol.eval_every == 0 or self.spent(result)
        return at_border and result.num_steps > result.curve[-1]["step"]

    def checkpoint_is_due(self, result: Result, saved: int) -> bool:
        """Whether the steps since the last checkpoint have passed one of `checkpoint_every`."""
        every = self.protocol.checkpoint_every
        return every is not None and result.num_steps // every > saved // every

    def until_border(self, result: Result) -> int:
        """Steps to the next evaluation or checkpoint."""
        intervals = [
            n for n in (self.protocol.eval_every, self.protocol.checkpoint_every) if n is not None
        ]
        return min(every - result.num_steps % every for every in intervals)

    def spent(self, result: Result) -> bool:
        """Whether another step would exceed the budget of steps or of passes."""
        most, done = self.protocol.max_forwards, taken(self.optimizer)
        if most is not None and result.num_steps == 1 and done > most:
            raise ConfigError(  # only a first step says its price too late
                f"protocol.max_forwards={most}: a step takes {result.last_cost} forward passes; as"
                " many, or more, is valid"
            )
        beyond = most is not None and done + self._next_cost(result) > most
        return beyond or result.num_steps >= self.protocol.num_steps

    def _next_cost(self, result: Result) -> int:
        """Passes of the next step: the last one's, unless the method says that they change;
        a method of someone else's need not say anything."""
        ahead = getattr(self.optimizer, "next_forwards", lambda: None)()
        if ahead is not None and getattr(self.optimizer, "num_backwards", 0):
            ahead += BACKWARD  # of the half that is backpropagated
        return max(1, result.last_cost if ahead is None else ahead)

    def stale(self, result: Result) -> bool:
        """Whether `patience` evaluations in a row were no better than the best."""
        patience = self.protocol.patience
        if patience is None or result.num_stale < patience:
            return False
        log.info("step %d: none of %d evaluations was better", result.num_steps, patience)
        return True

    def set_lr(self, result: Result) -> None:
        """Set each group's rate, which is a function of what has been done: a resumed run needs no
        scheduler's state."""
        if self.protocol.lr_schedule == "linear":
            done = result.num_steps / self.protocol.num_steps
            if self.protocol.max_forwards:
                done = max(done, taken(self.optimizer) / self.protocol.max_forwards)
            for group, lr in zip(self.optimizer.param_groups, self.lrs, strict=True):
                group["lr"] = lr * (1 - done)
