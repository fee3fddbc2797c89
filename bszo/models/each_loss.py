"""The closure of a method that has directions of each example's own."""

from typing import Any, Self

from torch import Tensor

from bszo.models.batch import repeated


class EachLoss:
    """() -> the loss of each example of a batch, and where the examples stand in it."""

    def __init__(self, model: Any, batch: Any) -> None:
        self.model, self.batch = model, batch
        self.examples: tuple[Tensor, ...] = model.examples(batch)

    def repeated(self, count: int) -> Self:
        """The same of so many copies of the batch behind one another."""
        return type(self)(self.model, repeated(self.batch, count))

    def __call__(self) -> Tensor:
        return self.model.losses(self.batch)
