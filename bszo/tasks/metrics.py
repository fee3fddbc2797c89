"""What a task's predictions are worth."""

import re
import string
from collections import Counter
from collections.abc import Sequence

from bszo.errors import DataError

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def accuracy(predictions: Sequence[int], labels: Sequence[int]) -> float:
    """Share of predictions that equal their label, in [0, 1]. DataError where there are none to
    compare."""
    if len(predictions) != len(labels):
        raise DataError(f"accuracy: {len(predictions)} predictions for {len(labels)} labels")
    if not len(labels):
        raise DataError("accuracy: no predictions; a split with rows is needed")
    return sum(int(p) == int(y) for p, y in zip(predictions, labels, strict=True)) / len(labels)


def normalised(text: str) -> str:
    """Lower case, without punctuation, articles and more than one blank (Rajpurkar et al. 2016,
    arXiv 1606.05250)."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def token_f1(prediction: str, answers: Sequence[str]) -> float:
    """2 p r / (p + r) over the normalised texts' words, as often as they occur; the best over the
    gold answers.

    Of two texts without a word the score is 1, of one it is 0.
    """
    return max(
        _f1(normalised(prediction).split(), normalised(answer).split()) for answer in answers
    )


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1 where the normalised prediction is one of the normalised gold answers, else 0."""
    return float(normalised(prediction) in {normalised(answer) for answer in answers})


def _f1(predicted: list[str], gold: list[str]) -> float:
    if not predicted or not gold:
        return float(predicted == gold)
    common = sum((Counter(predicted) & Counter(gold)).values())
    return 2 * common / (len(predicted) + len(gold))
