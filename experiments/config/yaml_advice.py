"""Advice on a slip in a YAML file: which line it is in, and what to write there instead."""

import re
from collections.abc import Sequence

import yaml

_PAIR = re.compile(r"\s*(?:- +)?(?P<key>[\w.]+): +(?P<text>\S.*)")
_ITEM = re.compile(r"\s*- +(?P<text>\S.*)")
_NEEDS_QUOTES = re.compile(r"[{}\[\]@%`*&!|>?,'\"-]|.*(:(\s|$)|\s#)")
_NEEDS_QUOTES_IN_A_LIST = re.compile(r"\s*[@%`*&!|>?{]")
_QUOTED = re.compile(r"'.*?'|\".*?\"")


def advise(error: yaml.MarkedYAMLError, text: str) -> tuple[int, str]:
    """The line of what a YAML parser could not read, counted from 1, and what is wrong with it.

    The parser often stops after the slip: at the next key, or at the end of the file.
    """
    lines = text.splitlines()
    mark = error.problem_mark or error.context_mark
    at = 0 if mark is None else min(mark.line, len(lines) - 1)
    began = min(error.context_mark.line, len(lines) - 1) if error.context_mark else at
    line, context, problem = lines[at], str(error.context), str(error.problem)
    if "\t" in _QUOTED.sub("", line):
        return at + 1, "a tab; YAML takes blanks alone"
    if "quoted scalar" in context:
        return began + 1, "the quote that begins here is not closed; add the second"
    for number in (at + 1, began + 1):
        if advice := quoting(text, number):
            return number, f"a text with such signs needs quotes; {advice}"
    if "flow" in context and began != at:
        return began + 1, f"the bracket that begins here is not closed ({problem})"
    return _of_indentation(lines, at, context, problem) or (at + 1, f"{problem}: {line.strip()}")


def _of_indentation(
    lines: Sequence[str], at: int, context: str, problem: str
) -> tuple[int, str] | None:
    """What is wrong with a line by the last one above it that is neither empty nor a comment."""
    above = (n for n in range(at - 1, -1, -1) if lines[n].strip() and lines[n].strip()[0] != "#")
    before = next(above, None)
    if before is None:
        return None
    if ":" not in lines[before] and "- " not in lines[before]:
        return before + 1, f"not of the form key: value: {lines[before].strip()}"
    if "not allowed" in problem and _indent(lines[at]) > _indent(lines[before]):
        return at + 1, f"indented below line {before + 1}, which has a value of its own"
    if "block mapping" in context:
        return at + 1, "keys of one level must begin in one column"
    return None


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def quoting(text: str, number: int) -> str | None:
    """`write key: 'text'` for a line whose value needs quotes and has none; None where it needs
    none."""
    line = text.splitlines()[number - 1].rstrip()
    pair = _PAIR.fullmatch(line)
    found = pair or _ITEM.fullmatch(line)
    if found is None:
        return _quoting_of_items(line)
    value = found["text"]
    has_quotes = value[0] in "'\"" and len(value) > 1 and value[-1] == value[0]
    if has_quotes and value.count(value[0]) == 2:
        return None
    if value[0] == "[" or re.fullmatch(r"\{.*:.*\}", value):
        return _quoting_of_items(line)
    if not _NEEDS_QUOTES.match(value):
        return None
    inner = value[1:-1] if has_quotes else value.strip("'\"") if value[0] in "'\"" else value
    written = "'" + inner.replace("'", "''") + "'"
    return f"write {found['key']}: {written}" if pair else f"write - {written}"


def _quoting_of_items(line: str) -> str | None:
    items = (item for item in re.split(r"[\[\],]", line) if _NEEDS_QUOTES_IN_A_LIST.match(item))
    item = next(items, None)
    return None if item is None else f"write '{item.strip()}' in quotes"
