"""What a misspelt word may have meant."""

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """`; choose one of a, b (did you mean a?)`, or the empty string without choices."""
    names = sorted(map(str, choices))
    close = difflib.get_close_matches(word, names, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return f"; choose one of {', '.join(names)}{hint}" if names else ""
