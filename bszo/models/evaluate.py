"""Evaluation: the score of a model on encoded examples."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from bszo.models.encode import Encoded
from bszo.models.generate import GenerativeModel
from bszo.models.language_model import LanguageModel
from bszo.tasks import accuracy

ALIKE = 1e-6  # a few spacings of float32


class Score(NamedTuple):
    """Means over examples.

    Attributes:
        accuracy: or token F1 of written answers, in [0, 1].
        loss: the cross entropy over the options that training takes; NaN of written answers, which
            have none.
        mute: the options' scores of all examples, which differ, are the same but for a number that
            an example's options share. Such is a model whose activations have overflowed: a norm
            divides by infinity, and what comes out of it is a constant.
    """

    accuracy: float
    loss: float
    mute: bool = False


def evaluate(model: LanguageModel, encoded: Sequence[Encoded], max_tokens: int) -> Score:
    """Score of the examples; `max_tokens` bounds the padded positions of a pass."""
    if isinstance(model, GenerativeModel):
        return Score(model.mean_f1(encoded, max_tokens=max_tokens), math.nan)
    return score_of(model.logits(encoded, max_tokens=max_tokens), encoded)


def score_of(logits: Tensor, encoded: Sequence[Encoded]) -> Score:
    """Score of logits, (N, O), that are there already, each up to a number that an example's
    options share."""
    labels = [example.label for example in encoded]
    loss = cross_entropy(logits.double(), torch.tensor(labels)).item()
    mute = _all_alike(logits) and len({example.rows for example in encoded}) > 1
    return Score(accuracy(logits.argmax(-1).tolist(), labels), loss, mute)


def _all_alike(logits: Tensor) -> bool:
    """Whether all rows, (N, O), are one row but for a number that is added to each. An option that
    an example has not, whose score is -inf, is like any."""
    against = (logits - logits[:, :1]).double()
    least = against.masked_fill(against.isneginf(), torch.inf).amin(0)
    spread = (against.amax(0) - least).clamp_min(0)
    # a mean over an option's tokens has other last digits than that over another's
    return bool((spread <= ALIKE * logits[logits.isfinite()].abs().max().clamp_min(1)).all())


def has_risen(first: float, last: float) -> bool:
    """Whether a loss is above twice what it was at first and one nat more.

    The right answers have become e times less likely than under a model that is twice as wrong.
    Runs that learn end far below it, and noise of a batch does not reach it.
    """
    return last > 2 * first + 1
