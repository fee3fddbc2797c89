"""One value of a row: is it what its column needs? `at` names file, row and field in the
message."""

from collections.abc import Mapping, Sequence
from typing import Any

from bszo.errors import DataError

GAP = "_"  # what a text with a missing word has in its place


def text_field(value: Any, at: str) -> str:
    """The text without its outer blanks. DataError: no text, empty, a NUL or half a surrogate pair
    in it."""
    if not isinstance(value, str):
        raise DataError(f"{at} is {shorten(repr(value))}, not a text")
    text = value.strip()
    if not text:
        raise DataError(f"{at} is empty")
    if "\0" in text:
        raise DataError(f"{at} holds a NUL character")
    if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
        raise DataError(f"{at} holds half a surrogate pair, which is no character")
    return text


def lookup_field(value: str, texts: Mapping[str, str], at: str) -> str:
    """The text that stands for a value. DataError with the known values where it is none of
    them."""
    if value not in texts:
        raise DataError(f"{at} is {shorten(repr(value))}; valid: {', '.join(texts)}")
    return texts[value]


def label_field(value: Any, names: Sequence[str], at: str) -> int:
    """The label's index, from an index, a name, or a truth value where the names are false and
    true."""
    name = str(value).lower() if isinstance(value, bool) else value
    if isinstance(name, str) and name in names:
        return names.index(name)
    if isinstance(name, int) and 0 <= name < len(names):
        return name
    valid = ", ".join(f"{index} ({text})" for index, text in enumerate(names))
    raise DataError(f"{at} is {shorten(repr(value))}; valid: {valid}")


def gap_field(value: str, at: str) -> None:
    """DataError unless the text has one gap `_`."""
    if (count := value.count(GAP)) != 1:
        raise DataError(f"{at} holds the gap {GAP} {count} times, it must be once")


def answers_field(value: Any, at: str) -> tuple[str, ...]:
    """Gold answers, from a list of texts or from SQuAD's {"text": [...]}. DataError: none, or one
    that is no text."""
    texts = value.get("text") if isinstance(value, Mapping) else value
    if isinstance(texts, str) or not isinstance(texts, Sequence) or not texts:
        raise DataError(
            f'{at} is {shorten(repr(value))}; valid: a list of one or more texts, or {{"text":'
            " [...]}"
        )
    return tuple(
        text_field(text, f"{at}, answer {number}") for number, text in enumerate(texts, start=1)
    )


def shorten(text: str, length: int = 60) -> str:
    """At most `length` characters of a value that a user may have made very long."""
    return text if len(text) <= length else text[:length] + "..."
