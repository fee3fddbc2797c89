"""Encoded examples: the rows of tokens that a model reads, and the places in them where the options
are read. Masked and causal models share this form."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bszo.errors import ModelError
from bszo.tasks import Example


@dataclass(frozen=True)
class OptionTokens:
    """Where one option is read: token `tokens[j]` from the logits at column `columns[j]` of row
    `row`."""

    row: int
    columns: tuple[int, ...]
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Encoded:
    """One example in the form in which a model sees it.

    Attributes:
        id: the example's id.
        label: index into `options`.
        rows: the token rows that the model must read, each a tuple of token ids without padding.
        options: one entry an option, in label order.
        truncated: whether part of the prompt was cut to fit the model.
    """

    id: str
    label: int
    rows: tuple[tuple[int, ...], ...]
    options: tuple[OptionTokens, ...]
    truncated: bool

    @property
    def length(self) -> int:
        """The number of tokens in the longest of the example's rows."""
        return max(len(row) for row in self.rows)


@dataclass(frozen=True)
class Piece:
    """One tokenised string.

    Attributes:
        ids: token ids, with the special tokens that the tokenizer puts around a text.
        ends: for each token, the number of characters up to its end; 0 for an added special token.
        text: from the first token to the last that is not an added special token.
    """

    ids: list[int]
    ends: list[int]
    text: slice


def tokenise(tokenizer: Any, texts: list[str]) -> Iterator[Piece]:
    """Turn each text into one Piece: its tokens and where they came from."""
    if not texts:
        return
    out = tokenizer(
        texts, return_offsets_mapping=True, return_special_tokens_mask=True, verbose=False
    )
    columns = (out["input_ids"], out["offset_mapping"], out["special_tokens_mask"])
    for ids, offsets, special in zip(*columns, strict=True):
        ends = [
            0 if is_special else end for (_, end), is_special in zip(offsets, special, strict=True)
        ]
        inside = [i for i, is_special in enumerate(special) if not is_special]
        yield Piece(ids, ends, slice(inside[0], inside[-1] + 1) if inside else slice(0, 0))


def check_options(example: Example) -> None:
    """ModelError unless the example has options, none of them empty, and its label is one of
    them."""
    if not example.options:
        raise ModelError(f"example {example.id}: it has no options")
    for i, option in enumerate(example.options):
        if not option:
            raise ModelError(f"example {example.id}: option {i} is empty")
    if not 0 <= example.label < len(example.options):
        last = len(example.options) - 1
        raise ModelError(
            f"example {example.id}: label {example.label} is no option's index (0 to {last})"
        )
