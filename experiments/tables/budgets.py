"""Equal budgets: each run is scored by its best validation accuracy at the moment when the cheapest
run of its task had ended."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.records.record import Record
from experiments.tables.cells import Score

# a run, and a point of its curve or itself -> what it took
Spent = Callable[[Record, Mapping[str, Any]], float]


@dataclass(frozen=True)
class Budget:
    """A quantity that is the same for all runs that are compared.

    Attributes:
        words: how a heading names it.
        spent: how much of it a run has used at a point of its curve, or in all.
        note: what the numbers mean.
    """

    words: str
    spent: Spent
    note: str

    def scoring(self, records: Sequence[Record]) -> Score:
        """Return the rule that scores the runs of one task. It uses validation, because the test
        split is scored for the final choice alone."""
        limit = min((self.spent(record, record) for record in records), default=0)

        def score(record: Record) -> float | None:
            seen = [
                point["validation_accuracy"]
                for point in record["curve"]
                if point["step"] > 0 and self.spent(record, point) <= limit
            ]
            return max((value for value in seen if value is not None), default=None)

        return score


_NOTE = (
    "Best validation accuracy (the rows that also chose the learning rate, so all numbers are"
    " optimistic alike) among the evaluations within {} that the cheapest run of each task and"
    " model took in all; `-` where a method had no evaluation by then. In a cell of fewer runs"
    " than the others the runs that had none are left out."
)
BUDGETS = (
    Budget(
        "at equal forward passes",
        lambda _, at: at["num_forwards"],
        _NOTE.format("the forward passes"),
    ),
    Budget(
        "at equal wall-clock",
        lambda _, at: at["train_seconds"],
        _NOTE.format("the training seconds"),
    ),
)
