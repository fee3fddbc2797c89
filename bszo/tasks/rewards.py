"""Rewards: one number an answer that says how good it is, and needs no derivative.

A reward is any function (answers, gold) -> one number each: the texts that the model has written or
the names of the labels that it has chosen, and for each the texts that would be right. Training
maximises its mean over a batch.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from bszo.errors import DataError
from bszo.tasks.metrics import exact_match, token_f1

Reward = Callable[[Sequence[str], Sequence[tuple[str, ...]]], Any]
PREFIX = "reward:"

# 1,234,567.8, 1234567.8, .5 and 1e3; a hyphen behind a letter or digit is no minus
_WHOLE = r"\d{1,3}(?:,\d{3})+(?!\d)|\d+"
_MINUS = "\N{MINUS SIGN}"
_NUMBER = re.compile(
    rf"(?:(?<!\w)[-{_MINUS}])?(?:(?:{_WHOLE})(?:\.\d+)?|(?<![\w.])\.\d+)(?:[eE][-+]?\d+\b)?"
)


def accuracy(answers: Sequence[str], gold: Sequence[tuple[str, ...]]) -> list[float]:
    """1 for an answer that is right to the letter, and 0 otherwise."""
    return [float(a in right) for a, right in zip(answers, gold, strict=True)]


def f1(answers: Sequence[str], gold: Sequence[tuple[str, ...]]) -> list[float]:
    """Token F1 (`bszo.tasks.token_f1`)."""
    return [token_f1(a, right) for a, right in zip(answers, gold, strict=True)]


def exact(answers: Sequence[str], gold: Sequence[tuple[str, ...]]) -> list[float]:
    """1 for an answer that is right but for case, articles and punctuation, and 0 otherwise."""
    return [exact_match(a, right) for a, right in zip(answers, gold, strict=True)]


def number(answers: Sequence[str], gold: Sequence[tuple[str, ...]]) -> list[float]:
    """1 / (1 + the distance) of the last number in the answer to the nearest right one; 0 for an
    answer without a number."""
    return [
        max((1 / (1 + abs(a - b)) for a in _numbers(answer)[-1:] for b in wanted), default=0.0)
        for answer, right in zip(answers, gold, strict=True)
        for wanted in [[b for text in right for b in _numbers(text)[-1:]]]
    ]


def brevity(answers: Sequence[str], gold: Sequence[tuple[str, ...]]) -> list[float]:
    """1 / (1 + the number of words)."""
    return [1 / (1 + len(answer.split())) for answer in answers]


# What a configuration may name as reward:NAME. A name is looked up here and never imported
# (docs/threats.md, "A YAML file that names Python objects"); a program may add to it.
REWARDS: dict[str, Reward] = {"brevity": brevity, "number": number}


def name_of(reward: object) -> str:
    """The name of a reward in messages."""
    return reward if isinstance(reward, str) else getattr(reward, "__qualname__", repr(reward))


def scored(reward: Reward, answers: Sequence[str], gold: Sequence[tuple[str, ...]]) -> list[float]:
    """The reward of each answer, held to be one finite number each.

    Raises:
        DataError: it is not.
    """
    at = f"objective {name_of(reward)}"
    found = reward(answers, gold)
    try:
        values = [_one(value) for value in found]
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{at}: returned {found!r:.80}; a list of numbers is valid, one an answer"
        ) from error
    if len(values) != len(answers):
        raise DataError(
            f"{at}: returned {len(values)} numbers for {len(answers)} answers; one each is valid"
        )
    for answer, value in zip(answers, values, strict=True):
        if not math.isfinite(value):
            raise DataError(f"{at}: is {value} of {answer!r:.80}; a finite number is valid")
    return values


def _one(value: Any) -> float:
    if isinstance(value, (str, bytes)):
        raise TypeError("a text is no number")
    return float(value)


def _numbers(text: str) -> list[float]:
    found = (part.replace(",", "").replace(_MINUS, "-") for part in _NUMBER.findall(text))
    return [float(part) for part in found]
