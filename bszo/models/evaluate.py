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

TIED = 1e-6  # a few spacings of float32


class Score(NamedTuple):
    """Means over examples.

    Attributes:
        accuracy: or token F1 of written answers, in [0, 1].
        loss: the cross entropy over the options that training takes; NaN of written answers, which
            have none.
        tied: all options of every example have the same score. Such is a model whose activations
            have overflowed: a norm divides by infinity, and what comes out of it is 0.
    """

    accuracy: float
    loss: float
    tied: bool = False


def evaluate(model: LanguageModel, encoded: Sequence[Encoded], max_tokens: int) -> Score:
    """Score of the examples; `max_tokens` bounds the padded positions of a pass."""
    if isinstance(model, GenerativeModel):
        return Score(model.mean_f1(encoded, max_tokens=max_tokens), math.nan)
    logits = model.logits(encoded, max_tokens=max_tokens)  # (N, O)
    labels = [example.label for example in encoded]
    loss = cross_entropy(logits.double(), torch.tensor(labels)).item()
    least, most = logits.masked_fill(logits.isneginf(), torch.inf).amin(-1), logits.amax(-1)
    # a mean over an option's tokens has other last digits than that over another's
    tied = bool((most - least <= TIED * most.abs().clamp_min(1)).all())
    return Score(accuracy(logits.argmax(-1).tolist(), labels), loss, tied)


def has_collapsed(score: Score, first: float | None) -> bool:
    """Whether the options of every example are tied, and were not at first, when their loss was
    another."""
    return score.tied and first is not None and not math.isclose(score.loss, first, abs_tol=TIED)
