"""In-context learning: training examples, answered, in front of a prompt (Brown et al. 2020, arXiv
2005.14165)."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from bszo.errors import DataError
from bszo.tasks.task import Example
from bszo.tasks.template import MASK, Style

SEPARATOR = "\n\n"


def choose(examples: Sequence[Example], num_shots: int, seed: int) -> list[Example]:
    """`num_shots` of the examples, evenly and without repetition, a function of the seed alone.

    Raises:
        DataError: there are fewer.
    """
    if not 0 <= num_shots <= len(examples):
        raise DataError(
            f"tuning.num_shots={num_shots}: must be 0 to {len(examples)}, the number of training"
            " rows"
        )
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(seed))
    return [examples[i] for i in order[:num_shots].tolist()]


def demonstrated(example: Example, shots: Sequence[Example], style: Style) -> Example:
    """The example behind the shots, each with its right option, one empty line after each.

    Args:
        style: what all of them were made for; a causal prompt may hold the mask's letters as any
            others.
    """
    return replace(
        example,
        prompt="".join(_answered(shot, style) + SEPARATOR for shot in shots) + example.prompt,
    )


def _answered(shot: Example, style: Style) -> str:
    option = shot.options[shot.label]
    return shot.prompt + option if style == "causal" else shot.prompt.replace(MASK, option.strip())
