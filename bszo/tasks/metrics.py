"""What a task's predictions are worth."""

from collections.abc import Sequence

from bszo.errors import DataError


def accuracy(predictions: Sequence[int], labels: Sequence[int]) -> float:
    """Share of predictions that equal their label, in [0, 1]. DataError where there are none to compare."""
    if len(predictions) != len(labels):
        raise DataError(f"accuracy: {len(predictions)} predictions for {len(labels)} labels")
    if not len(labels):
        raise DataError("accuracy: no predictions; a split with rows is needed")
    return sum(int(p) == int(y) for p, y in zip(predictions, labels, strict=True)) / len(labels)
