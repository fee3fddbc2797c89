"""Every error that a user can cause or must hear of: one line, naming what is wrong and what would
be valid."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

MOST_CHARACTERS = 2000
MOST_QUOTED = 240


def one_line(error: object) -> str:
    """The first sentence of an exception's message, without line breaks and at most 240 characters
    long, for a message that quotes it."""
    text = " ".join(str(error).split()).split(". ")[0]
    return text if len(text) <= MOST_QUOTED else f"{text[: MOST_QUOTED - 3]}..."


EXTRAS = {
    "lm": (
        "transformers",
        "peft",
        "datasets",
        "safetensors",
        "tokenizers",
        "huggingface_hub",
        "tqdm",
    ),
    "trl": ("trl",),
    "quantized": ("bitsandbytes", "torchao", "accelerate"),
}


def printable(text: str) -> str:
    """A text as one line for a terminal (docs/threats.md, "Text that a terminal would obey").

    Line breaks become blanks. What a terminal would obey or hide (escapes, marks that turn the
    direction of writing, half a surrogate pair) is written as an escape: `\\x1b`. A long text is
    cut.
    """
    line = " ".join(text[: 4 * MOST_CHARACTERS].splitlines())
    cut = line[:MOST_CHARACTERS] + "..." * (len(line) > MOST_CHARACTERS)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)


class BszoError(Exception):
    """Base of all errors raised on purpose; its message is one line that stands on its own."""

    def __str__(self) -> str:
        return printable(super().__str__())  # what it quotes may hold anything


class MissingExtra(BszoError, ImportError):
    """A package that is not installed, and the extra that installs it."""


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Wrap the imports of an optional package: MissingExtra, naming the extra, where it is not
    installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in EXTRAS[extra]:
            raise
        raise MissingExtra(
            f"{error.name} is not installed; pip install 'bszo[{extra}]' installs it"
        ) from error


class ConfigError(BszoError):
    """A configuration key or value that cannot be run."""


class DataError(BszoError):
    """A data file, row, column or label that cannot be used."""


class ModelError(BszoError):
    """A model that cannot be loaded, or a text that it cannot score."""


class OptimError(BszoError, ValueError):
    """An optimizer argument that is out of range, or a closure that returned no scalar."""


class TrajectoryError(BszoError):
    """A log of a run that cannot be read, written, or replayed on what it is given."""


class ParallelError(BszoError):
    """Another process of the group is gone, silent, or at work on something else."""


class Collapsed(BszoError):
    """Training has made a model say the same of every row, which it did not before.

    Its loss is finite, and may be lower than before.

    Args:
        step: steps completed.
        count: rows that were scored.
    """

    def __init__(self, step: int, count: int) -> None:
        super().__init__(
            f"step {step}: the model has collapsed: it says the same of all {count} rows"
        )


class NonFiniteLoss(BszoError):
    """The loss, its slope or its gradient is NaN or infinite; the parameters are back where the
    step began.

    Attributes:
        step: steps completed before the one that failed.
        value: as returned.
        perturbed: it was taken at theta + sum_i c_i z_i, not at theta.
        at_theta: the finite loss at theta in the same step, where one was taken before.
    """

    def __init__(
        self,
        step: int,
        value: float,
        *,
        perturbed: bool = False,
        at_theta: float | None = None,
        what: Literal["loss", "slope", "gradient"] = "loss",
    ) -> None:
        where = " of a perturbed pass" if perturbed else ""
        there = "" if at_theta is None else f" (the loss at theta is {at_theta:.6g})"
        super().__init__(f"step {step}: the {what}{where} is {value}, not a finite number{there}")
        self.step, self.value, self.perturbed, self.at_theta = step, value, perturbed, at_theta
