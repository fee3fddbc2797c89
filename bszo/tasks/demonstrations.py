"""In-context learning: training examples with their answers stand in front of a prompt (Brown et
al. 2020, arXiv 2005.14165)."""

from collections.abc import Sequence
from dataclasses import replace

from bszo.errors import DataError
from bszo.tasks.splits import permutation
from bszo.tasks.task import Example
from bszo.tasks.template import MASK, Style

SEPARATOR = "\n\n"


def choose(examples: Sequence[Example], num_shots: int, seed: int) -> list[Example]:
    """Choose `num_shots` of the examples, each as likely as any other and none twice.

    The choice depends on the seed alone.

    Raises:
        DataError: there are fewer examples than that.
    """
    if not 0 <= num_shots <= len(examples):
        raise DataError(
            f"tuning.num_shots={num_shots}: must be 0 to {len(examples)}, the number of training"
            " rows"
        )
    return [examples[i] for i in permutation(len(examples), seed)[:num_shots]]


def demonstrated(example: Example, shots: Sequence[Example], style: Style) -> Example:
    """The example with the shots in front of its prompt. Each shot has its right option, and an
    empty line follows it.

    Args:
        style: "masked" or "causal", the kind of model that all of them were made for. In a masked
            one the mask is replaced by the answer; in a causal one those letters are plain text.
    """
    return replace(
        example,
        prompt="".join(_answered(shot, style) + SEPARATOR for shot in shots) + example.prompt,
    )


def _answered(shot: Example, style: Style) -> str:
    option = shot.options[shot.label]
    return shot.prompt + option if style == "causal" else shot.prompt.replace(MASK, option.strip())
