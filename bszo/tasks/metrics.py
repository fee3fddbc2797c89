"""Metrics: what a task's predictions are worth."""

import re
import string
from collections import Counter
from collections.abc import Sequence

from bszo.errors import DataError

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def accuracy(predictions: Sequence[int], labels: Sequence[int]) -> float:
    """The share of predictions that equal their labels, between 0 and 1.

    Raises:
        DataError: there are no predictions.
    """
    if len(predictions) != len(labels):
        raise DataError(f"accuracy: {len(predictions)} predictions for {len(labels)} labels")
    if not len(labels):
        raise DataError("accuracy: no predictions; a split with rows is needed")
    return sum(int(p) == int(y) for p, y in zip(predictions, labels, strict=True)) / len(labels)


def normalised(text: str) -> str:
    """The text in lower case, without punctuation and articles, its words apart by one blank
    (Rajpurkar et al. 2016, arXiv 1606.05250)."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def token_f1(prediction: str, answers: Sequence[str]) -> float:
    """F1 = 2 p r / (p + r) of the words of a prediction, against the gold answer that fits it best.

    p is the share of the prediction's words that the answer has, r the share of the answer's words
    that the prediction has; a word counts as often as it occurs. Both texts are normalised before.
    Where neither text has a word the score is 1, and where only one of them has none it is 0.
    """
    return max(
        _f1(normalised(prediction).split(), normalised(answer).split()) for answer in answers
    )


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1 if the prediction is one of the gold answers, both normalised, and 0 otherwise."""
    return float(normalised(prediction) in {normalised(answer) for answer in answers})


def _f1(predicted: list[str], gold: list[str]) -> float:
    if not predicted or not gold:
        return float(predicted == gold)
    common = sum((Counter(predicted) & Counter(gold)).values())
    return 2 * common / (len(predicted) + len(gold))
