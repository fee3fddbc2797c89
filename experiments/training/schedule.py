"""What is due at a step: evaluation, checkpoint, the end. It follows from what is done, and from
nothing else."""

import logging
from typing import Any

from experiments.config.schema import Protocol
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
        """Of the progress bar: in forward passes where they bound the run, else in steps."""
        if self.protocol.max_forwards is None:
            return {"total": self.protocol.num_steps, "unit": "step", "initial": result.num_steps}
        return {
            "total": self.protocol.max_forwards,
            "unit": "forward",
            "initial": self.optimizer.num_forwards,
        }

    def evaluation_is_due(self, result: Result) -> bool:
        """At every interval's border and at the end, once each."""
        at_border = result.num_steps % self.protocol.eval_every == 0 or self.spent(result)
        return at_border and result.num_steps > result.curve[-1]["step"]

    def checkpoint_is_due(self, result: Result, saved: int) -> bool:
        """A border of `checkpoint_every` lies between the step last saved and this one."""
        every = self.protocol.checkpoint_every
        return every is not None and result.num_steps // every > saved // every

    def until_border(self, result: Result) -> int:
        """Steps to the next evaluation or checkpoint."""
        intervals = [
            n for n in (self.protocol.eval_every, self.protocol.checkpoint_every) if n is not None
        ]
        return min(every - result.num_steps % every for every in intervals)

    def spent(self, result: Result) -> bool:
        """Another step would go beyond the steps or the forward passes."""
        most = self.protocol.max_forwards
        beyond = most is not None and self.optimizer.num_forwards + max(1, result.last_cost) > most
        return beyond or result.num_steps >= self.protocol.num_steps

    def stale(self, result: Result) -> bool:
        """`patience` evaluations in a row were no better than the best."""
        patience = self.protocol.patience
        if patience is None or result.num_stale < patience:
            return False
        log.info("step %d: none of %d evaluations was better", result.num_steps, patience)
        return True

    def set_lr(self, result: Result) -> None:
        """The rate as a function of what is done alone, so that a resumed run needs no scheduler's
        state."""
        if self.protocol.lr_schedule == "linear":
            done = result.num_steps / self.protocol.num_steps
            if self.protocol.max_forwards:
                done = max(done, self.optimizer.num_forwards / self.protocol.max_forwards)
            for group, lr in zip(self.optimizer.param_groups, self.lrs, strict=True):
                group["lr"] = lr * (1 - done)
