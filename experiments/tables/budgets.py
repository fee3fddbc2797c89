"""Equal budgets: each run is scored by its validation accuracy at the moment when the cheapest run
of its task had ended."""

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
        split is scored for the final choice alone.

        Methods are evaluated at different moments. So none is scored by its best evaluation, of
        which some have had more than others, but on the straight line between the evaluations
        before and after the moment, the first of which is that before training.
        """
        limit = min((self.spent(record, record) for record in records), default=0)

        def score(record: Record) -> float | None:
            seen = [
                (self.spent(record, point), point["validation_accuracy"])
                for point in record["curve"]
                if point["validation_accuracy"] is not None
            ]
            before = max((point for point in seen if point[0] <= limit), default=None)
            after = min((point for point in seen if point[0] > limit), default=None)
            if before is None or after is None:
                return None if before is None else before[1]
            share = (limit - before[0]) / (after[0] - before[0])
            return before[1] + share * (after[1] - before[1])

        return score


def before_training(record: Record) -> float | None:
    """The validation accuracy before the first step."""
    return record["curve"][0]["validation_accuracy"] if record["curve"] else None


_NOTE = (
    "Validation accuracy (the rows also chose the learning rate, so that all numbers are optimistic"
    " alike) after {} that the cheapest run of each task and model took in all, on a straight line"
    " between the evaluations before and after; before the first one the line begins with the score"
    " before training."
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
