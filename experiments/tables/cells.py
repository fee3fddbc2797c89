"""Cells of a table: the runs of all seeds of one position as a number, or the reason why there is
no number."""

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from experiments.records.record import Record
from experiments.sweeps.selection import Choice

Score = Callable[[Record], float | None]


def in_points(record: Record) -> float:
    """Test accuracy in per cent."""
    return 100 * record["test_accuracy"]


def last(record: Record, key: str) -> float | None:
    """The last value of this kind of a curve, None where it has none."""
    return next(
        (point[key] for point in reversed(record["curve"]) if point.get(key) is not None), None
    )


@dataclass(frozen=True)
class Cell:
    """The mean and the sample deviation (n - 1) of the seeds' scores, in per cent.

    Attributes:
        scores: scores of the runs that ended well, in the order of the seeds.
        expected: how many runs the cell should have.
        failures: statuses of the runs that did not end well.
    """

    scores: tuple[float, ...] = ()
    expected: int = 1
    failures: tuple[str, ...] = ()

    @property
    def number(self) -> float | None:
        """The mean; None where no run is there or any run failed."""
        return statistics.fmean(self.scores) if self.scores and not self.failures else None

    @property
    def deviation(self) -> float | None:
        return (
            statistics.stdev(self.scores)
            if self.number is not None and len(self.scores) > 1
            else None
        )

    @property
    def text(self) -> str:
        """ "92.22 (0.42; 5)", "92.22 (0.42; 3 of 5)", "diverged (2 of 5)",
        "diverged 2, out of memory 1 (of 5)", "-"."""
        if self.failures:
            counts = [(s.replace("_", " "), n) for s, n in Counter(self.failures).most_common()]
            if len(counts) == 1:
                return f"{counts[0][0]} ({counts[0][1]} of {self.expected})"
            return f"{', '.join(f'{s} {n}' for s, n in counts)} (of {self.expected})"
        if self.number is None:
            return "-"
        if self.expected == 1:
            return f"{self.number:.2f}"
        of = "" if len(self.scores) == self.expected else f" of {self.expected}"
        deviation = "" if self.deviation is None else f"{self.deviation:.2f}; "
        return f"{self.number:.2f} ({deviation}{len(self.scores)}{of})"


def test_score(record: Record) -> float | None:
    """The test accuracy of the parameters that validation chose."""
    return record["test_accuracy"]


def zero_shot(record: Record) -> float | None:
    """The test accuracy before training."""
    return record["zero_shot_accuracy"]


def cell_of(
    choices: Sequence[Choice], records: Sequence[Record | None], score: Score = test_score
) -> Cell:
    """Build the cell of the runs that validation chose.

    Args:
        choices: one for each seed.
        records: one for each seed, None where the run is missing.
        score: maps a run that ended well to a share from 0 to 1, or to None where it has no score.
    """
    there = [record for record in records if record is not None]
    failures = [record["status"] for record in there if record["status"] != "ok"]
    failures += [choice.failed[0] for choice in choices if choice.failed]
    scores = [score(record) for record in there if record["status"] == "ok"]
    return Cell(
        tuple(100 * value for value in scores if value is not None), len(choices), tuple(failures)
    )
