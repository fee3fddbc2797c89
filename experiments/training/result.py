"""Result of a run as far as it has come, and a copy of the best parameters that it has seen."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bszo.models.on_disk import empty_like


@dataclass
class Result:
    """The numbers of a run. They are filled in while it goes on, so that an early end loses none.

    Attributes:
        num_stale: evaluations since the best one.
        losses: of the steps since the last evaluation, without those that were skipped.
        first_loss: of the first step that was not skipped.
        last_cost: passes of the last step that was not skipped, a backward pass counted as two.
        noise_var, gain: of the last step's belief, where the method has one.
        num_parts: processes that the run took: one more each time it goes on from a checkpoint.
    """

    zero_shot_accuracy: float | None = None
    validation_accuracy: float | None = None
    test_accuracy: float | None = None
    num_steps: int = 0
    best_step: int | None = None
    num_stale: int = 0
    curve: list[dict[str, Any]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    first_loss: float | None = None
    last_cost: int = 0
    noise_var: float | None = None
    gain: float | None = None
    num_parts: int = 1

    @property
    def mean_loss(self) -> float:
        """Over the steps since the last evaluation; NaN without any."""
        return sum(self.losses) / len(self.losses) if self.losses else math.nan


class Selection:
    """A copy of the best parameters, in CPU memory or beside them on a disk.

    Args:
        parameters: those that train.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self.parameters = list(parameters)
        self.best: list[Tensor] = []

    def keep(self) -> None:
        """Remember the parameters as they are now as the best."""
        if not self.best:
            self.best = [empty_like(parameter) for parameter in self.parameters]
        for value, parameter in zip(self.best, self.parameters, strict=True):
            value.copy_(parameter.detach())

    @torch.no_grad()
    def restore(self) -> None:
        """Write the best values back into the parameters."""
        for value, parameter in zip(self.best, self.parameters, strict=True):
            parameter.copy_(value)
