"""The paper's numbers that tables stand beside ours; damage is named and left out."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments import RESULTS
from experiments.records.store import PACKED
from experiments.records.store import gather as gather
from experiments.records.store import left_out as left_out

PAPER, RUNS = RESULTS / "paper", PACKED


class PaperError(Exception):
    """A file of the paper's numbers that cannot be used; the message is one line."""


def printed(
    name: str, columns: Sequence[str], numbers: Sequence[str] = (), folder: Path | None = None
) -> tuple[list[dict[str, str]], list[str]]:
    """The rows of `paper_table`, and what is wrong with a file that is left out."""
    try:
        return paper_table(name, columns, numbers, folder), []
    except PaperError as error:
        return [], [str(error)]


def paper_table(
    name: str, columns: Sequence[str], numbers: Sequence[str] = (), folder: Path | None = None
) -> list[dict[str, str]]:
    """The paper's numbers of one table, as text, a dictionary a row.

    Args:
        name: stem of the file.
        columns: that must be there.
        numbers: those of them that must hold a number in every row.

    Raises:
        PaperError: no such file, or it is no CSV of these columns.
    """
    file = (folder or PAPER) / f"{name}.csv"
    if not file.is_file():
        raise PaperError(f"{file.name}: not in {file.parent.name}/, where the paper's numbers are")
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            reader = csv.DictReader(lines)
            rows: list[dict[str, Any]] = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise PaperError(f"{file.name}: not a CSV file in UTF-8 ({error})") from error
    there = reader.fieldnames or ()
    missing = [column for column in columns if column not in there]
    if missing:
        raise PaperError(f"{file.name}: no column {missing[0]!r}; {', '.join(there)} are there")
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise PaperError(
                f"{file.name}: line {number} has not as many values as the {len(there)} columns"
            )
        for column in numbers:
            _require_number(row[column], f"{file.name}: line {number}: {column}")
    return rows


def _require_number(text: str, where: str) -> None:
    try:
        float(text)
    except ValueError:
        raise PaperError(f"{where} {text!r:.40} is no number") from None
