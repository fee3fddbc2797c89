"""Numbers that the paper prints, from results/paper/*.csv; a file that cannot be used is named."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments import RESULTS

PAPER = RESULTS / "paper"


class PaperError(Exception):
    """A file of the paper's numbers that cannot be used; the message is one line."""


@dataclass(frozen=True)
class StepCost:
    """One row of the paper's Table 4: peak memory in 1e9 bytes and milliseconds a step."""

    gb: float
    ms: float


StepCosts = dict[tuple[str, str], dict[str, StepCost]]  # (model, precision) -> method -> its row


def step_costs() -> tuple[StepCosts, list[str]]:
    """The paper's Table 4, and what is wrong with its file where it is left out."""
    columns = ("model", "precision", "method", "peak_memory_gb", "step_time_ms")
    rows, problems = printed("table4", columns, columns[3:])
    costs: StepCosts = {}
    for row in rows:
        cost = StepCost(float(row["peak_memory_gb"]), float(row["step_time_ms"]))
        costs.setdefault((row["model"], row["precision"]), {})[row["method"]] = cost
    return costs, problems


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
