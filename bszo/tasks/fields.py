"""Values of a row, each checked to be what its column needs.

`at` names the file, the row and the field in every message.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from bszo.errors import DataError

GAP = "_"  # stands in a text where a word is missing
_NUMBER_NAME = re.compile(r"([-+]?\d+(?:\.\d+)?)(?:\s.*)?")  # "3", "1.0", "2 stars"


def text_field(value: Any, at: str) -> str:
    """The text without its outer blanks. DataError: the value is not a text, is empty, or holds a
    NUL or half a surrogate pair."""
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
    """The text that stands for a value. DataError, with the known values, for any other one."""
    if value not in texts:
        raise DataError(f"{at} is {shorten(repr(value))}; valid: {', '.join(texts)}")
    return texts[value]


def label_field(value: Any, names: Sequence[str], at: str) -> int:
    """The label's index, from an index, a name, or a truth value where the names are false and
    true.

    DataError: the value is none of these, or it is an integer although the names are numbers that
    are not their own index. A row that says 1 under the names "1", "2", "3" may mean the first
    label by its name and the second by its index.
    """
    name = str(value).lower() if isinstance(value, bool) else value
    if isinstance(name, int) and (confusing := _numbers_out_of_place(names)):
        raise DataError(
            f"{at} is the number {name}, which may be an index from 0 or one of the names"
            f' {", ".join(map(repr, confusing[:3]))}; valid: the name as a text ("{name}"), or'
            " task.label_names without numbers, and indices from 0 in the rows"
        )
    if isinstance(name, str) and name in names:
        return names.index(name)
    if isinstance(name, int) and 0 <= name < len(names):
        return name
    valid = ", ".join(f"{index} ({text})" for index, text in enumerate(names))
    raise DataError(f"{at} is {shorten(repr(value))}; valid: {valid}")


def _numbers_out_of_place(names: Sequence[str]) -> list[str]:
    """The names that are numbers other than their own index."""
    found = ((i, name, _NUMBER_NAME.fullmatch(name.strip())) for i, name in enumerate(names))
    return [name for i, name, number in found if number and float(number[1]) != i]


def gap_field(value: str, at: str) -> None:
    """Check that the text has one gap `_`; DataError where it has none or several."""
    if (count := value.count(GAP)) != 1:
        raise DataError(f"{at} holds the gap {GAP} {count} times, it must be once")


def answers_field(value: Any, at: str) -> tuple[str, ...]:
    """Gold answers, from a list of texts or from SQuAD's {"text": [...]}. DataError: there are
    none, or one of them is not a text."""
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
