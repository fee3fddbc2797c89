"""Prompt templates: text with {column} or {column!x} fields, x one of a few named conversions.

Source of the prompts themselves: conf/task/*.yaml.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from string import Formatter
from typing import Literal, get_args

from bszo.errors import ConfigError
from bszo.tasks.fields import GAP

Style = Literal["causal", "masked"]
Words = Literal["corrected", "as-run"]
MASK = "<mask>"


def _first_upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _first_word_lower(text: str) -> str:
    word, blank, rest = text.partition(" ")
    return (word if word == "I" else word.lower()) + blank + rest


def _without_title(text: str) -> str:
    before, cut, after = text.partition(" -- ")
    return after if cut else before


CONVERSIONS: dict[str, Callable[[str], str]] = {
    "c": _first_upper,  # first letter in upper case
    "l": str.lower,  # all in lower case
    "f": _first_word_lower,  # first word in lower case unless it is "I"
    "d": lambda text: text.removesuffix("."),  # without the final dot
    "q": lambda text: _first_upper(text.removesuffix("?").rstrip()),  # a question without its mark
    "t": _without_title,  # without a leading "Title -- "
    "b": lambda text: text.partition(GAP)[0],  # before the gap `_`
    "a": lambda text: text.partition(GAP)[2],  # after it
}
GAP_CONVERSIONS = frozenset("ab")


@lru_cache(maxsize=1024)
def parse(template: str) -> tuple[tuple[str, str | None, str | None], ...]:
    """The template as (text before the field, column or None, conversion or None) pieces.

    Raises:
        ConfigError: the braces do not match, a field is empty, or a conversion is unknown.
    """
    try:
        pieces = tuple(Formatter().parse(template))
    except ValueError as error:
        raise ConfigError(f"template {template!r}: {error}") from error
    for _, column, spec, conversion in pieces:
        if column is not None and (not column.strip() or column != column.strip() or spec):
            raise ConfigError(
                f"template {template!r}: field {column!r} must be a column, or a column and !x"
            )
        if conversion is not None and conversion not in CONVERSIONS:
            valid = ", ".join("!" + key for key in CONVERSIONS)
            raise ConfigError(
                f"template {template!r}: conversion !{conversion} is not one of {valid}"
            )
    return tuple((text, column, conversion) for text, column, _, conversion in pieces)


def render(template: str, values: Mapping[str, str]) -> str:
    """The template with each field replaced by its converted column; values are never parsed
    again."""
    parts = []
    for text, column, conversion in parse(template):
        parts.append(text)
        if column is not None:
            parts.append(CONVERSIONS[conversion](values[column]) if conversion else values[column])
    return "".join(parts)


@dataclass(frozen=True)
class Template:
    """A prompt and its options, one an answer, in label order.

    Args:
        prompt: causal: the text before the option. Masked: a text that holds `<mask>` once.
        options: a template each, with the leading blank where the option starts a word after a
            word.
        options_as_run: the options as the published code had them; empty where they are the same.
    """

    prompt: str
    options: tuple[str, ...]
    options_as_run: tuple[str, ...] = ()

    @property
    def columns(self) -> set[str]:
        """Names of all columns that the prompt or an option mentions."""
        return {column for column, _ in self._fields() if column is not None}

    @property
    def gapped(self) -> set[str]:
        """Those of them that are cut in two at their gap."""
        return {
            column
            for column, conversion in self._fields()
            if column and conversion in GAP_CONVERSIONS
        }

    def literal(self, columns: Iterable[str]) -> str | None:
        """The first of the columns that stands in braces which are plain text, as `{text}` does in
        `{{text}}`: another template language's way to write a field."""
        for text in (self.prompt, *self.options, *self.options_as_run):
            held = "".join(before for before, _, _ in parse(text))
            for column in columns:
                if re.search(rf"\{{\s*{re.escape(column)}\s*\}}", held):
                    return column
        return None

    def _fields(self) -> Iterator[tuple[str | None, str | None]]:
        for text in (self.prompt, *self.options, *self.options_as_run):
            yield from ((column, conversion) for _, column, conversion in parse(text))

    def words(self, words: Words) -> tuple[str, ...]:
        """The options for `fidelity`'s choice of label words. ConfigError on an unknown choice."""
        if words not in get_args(Words):
            raise ConfigError(f"label words {words!r}: not one of {', '.join(get_args(Words))}")
        return self.options_as_run if words == "as-run" and self.options_as_run else self.options
