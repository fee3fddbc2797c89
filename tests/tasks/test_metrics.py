"""Accuracy, and what it refuses."""

import pytest
import torch

from bszo.errors import DataError
from bszo.tasks import accuracy


@pytest.mark.parametrize(
    ("predictions", "labels", "value"),
    [
        ([0, 1, 2], [0, 1, 1], 2 / 3),
        ([1], [1], 1.0),
        ([1], [0], 0.0),
    ],
)
def test_accuracy(predictions: list[int], labels: list[int], value: float) -> None:
    assert accuracy(predictions, labels) == value
    assert type(accuracy(torch.tensor(predictions).tolist(), labels)) is float


def test_nothing_to_score() -> None:
    with pytest.raises(DataError, match="no predictions"):
        accuracy([], [])


def test_other_lengths() -> None:
    with pytest.raises(DataError, match="2 predictions for 1 labels"):
        accuracy([1, 0], [1])
