"""Rows of a file as the examples of a prompt, of which some are held out to score the model."""

import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bszo.errors import ConfigError, DataError
from bszo.tasks import (
    Example,
    Row,
    Splits,
    Style,
    Task,
    fingerprint,
    overlaps,
    permutation,
    read_jsonl,
)
from bszo.tasks.prompted import prompted

HELD_SHARE, MOST_HELD = 5, 500  # a fifth of the rows, at most so many
SPLIT = 0  # the seed of the permutation of which the first rows are held out
_ESCAPES = {r"\n": "\n", r"\t": "\t", r"\\": "\\"}


@dataclass(frozen=True)
class Rows:
    """The rows of a run; none both trains and is held out, unless its text is there twice, of which
    stderr is told.

    Attributes:
        task: what each asks.
        train, held: as examples for the task's kind of model.
        facts: what a report says of them.
    """

    task: Task
    train: list[Example]
    held: list[Example]
    facts: dict[str, Any]

    @property
    def style(self) -> Style:
        return self.task.styles[0]


def read_rows(
    path: Path,
    *,
    prompt: str,
    options: Sequence[str],
    label: str,
    label_names: Sequence[str] | None,
    test: Path | None,
    num_held: int | None,
) -> Rows:
    """The rows of `path`, each checked; those of `test` are held out, or else `num_held` of them.

    Args:
        prompt, options: in which \\n is a line break and \\t a tabulator, as shells leave them.
        num_held: None means a fifth, at most 500. A permutation of the rows says which; it is the
            same for every seed of a run, so that the mean of several runs and a run that starts
            from another one's model are scored on rows that none of them has trained on.

    Raises:
        BszoError: in one line, the prompt, option, file, row or number that cannot be used.
    """
    prompt, *options = map(_unescaped, (prompt, *options))
    task = prompted(prompt, options, label=label, label_names=label_names, name=path.name)
    rows = _read(task, path)
    _check_labels(task, rows, options)
    if test is not None:
        train, held = rows, _read(task, test)
    else:
        count = min(len(rows) // HELD_SHARE, MOST_HELD) if num_held is None else num_held
        if not 0 < count < len(rows):
            raise ConfigError(
                f"--held-out {count}: 1 to {len(rows) - 1} is valid, for {path} has {len(rows)}"
                " rows and one at least must train"
            )
        order = permutation(len(rows), SPLIT)  # of fewer held-out rows, the first of these
        train = [rows[i] for i in sorted(order[count:])]
        held = [rows[i] for i in sorted(order[:count])]
    repeated = overlaps(task, Splits(tuple(train), tuple(held), ()))["validation"]
    if repeated:
        print(
            f"{repeated} of {len(held)} held-out rows have the text of a row that trains, so that"
            " the score flatters",
            file=sys.stderr,
        )
    style = task.styles[0]
    facts = {
        "file": path.name,
        "prompt": prompt,
        "options": list(getattr(task, style).options),
        "labels": list(task.label_names),
        "label_field": label,
        "num_train": len(train),
        "num_held_out": len(held),
        "num_repeated": repeated,
        "held_out": "another file" if test is not None else f"by permutation {SPLIT}",
        "sha256": {"train": fingerprint(train), "held_out": fingerprint(held)},
    }

    def examples(part: Sequence[Row]) -> list[Example]:
        return [task.example(row.values, style, where=row.where) for row in part]

    return Rows(task, examples(train), examples(held), facts)


def _read(task: Task, path: Path) -> list[Row]:
    rows = read_jsonl(path)
    if not rows:
        raise DataError(f"{path}: no rows; one JSON object a line is needed")
    for row in rows:
        task.check(row.values, row.where)
    return rows


def _check_labels(task: Task, rows: Sequence[Row], options: Sequence[str]) -> None:
    """DataError for an option that is never right: a label is spelt otherwise, or left out."""
    counts = Counter(task.check(row.values, row.where)[1] for row in rows)
    for i, (name, option) in enumerate(zip(task.label_names, options, strict=True)):
        if not counts[i]:
            found = ", ".join(f"{task.label_names[j]} ({counts[j]})" for j in sorted(counts))
            raise DataError(
                f"--options {option!r}: no row's {task.label!r} is {i} or {name!r}; the rows have"
                f" {found}"
            )


def _unescaped(text: str) -> str:
    return re.sub(r"\\[nt\\]", lambda match: _ESCAPES[match[0]], text)
