"""Evaluation: the score of a model on encoded examples."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.nn.functional import cross_entropy

from bszo.models.encode import Encoded
from bszo.models.generate import GenerativeModel
from bszo.models.language_model import LanguageModel
from bszo.tasks import accuracy


class Score(NamedTuple):
    """Means over examples.

    Attributes:
        accuracy: or token F1 of written answers, in [0, 1].
        loss: the cross entropy over the options that training takes; NaN of written answers, which
            have none.
    """

    accuracy: float
    loss: float


def evaluate(model: LanguageModel, encoded: Sequence[Encoded], max_tokens: int) -> Score:
    """Score of the examples; `max_tokens` bounds the padded positions of a pass."""
    if isinstance(model, GenerativeModel):
        return Score(model.mean_f1(encoded, max_tokens=max_tokens), math.nan)
    logits = model.logits(encoded, max_tokens=max_tokens)  # (N, O)
    labels = [example.label for example in encoded]
    loss = cross_entropy(logits.double(), torch.tensor(labels)).item()
    return Score(accuracy(logits.argmax(-1).tolist(), labels), loss)
