"""The closure of a method that has directions of each example's own."""

from typing import Any

from torch import Tensor


class EachLoss:
    """() -> the loss of each example of a batch, and where the examples stand in it."""

    def __init__(self, model: Any, batch: Any) -> None:
        self.model, self.batch = model, batch
        self.examples: tuple[Tensor, ...] = model.examples(batch)

    def __call__(self) -> Tensor:
        return self.model.losses(self.batch)
