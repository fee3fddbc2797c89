"""What tables are made of: records, a folder a profile, and the paper's numbers; damage is named and left out."""

import csv
from collections import defaultdict
from pathlib import Path

from experiments.record import RecordError, load
from experiments.selection import Record

ROOT = Path(__file__).resolve().parents[2]
RUNS = ROOT / "results" / "runs"
PAPER = ROOT / "results" / "paper"


class PaperError(Exception):
    """A file of the paper's numbers that cannot be used; the message is one line."""


def gather(folder: Path) -> tuple[list[Record], list[str]]:
    """The folder's sound records, and one line for each file that is left out.

    Files with one signature are all left out: nobody can say which of them is the run.
    """
    records: defaultdict[str, list[tuple[str, Record]]] = defaultdict(list)
    problems: list[str] = []
    for file in sorted(folder.glob("*.json")):
        try:
            record = load(file)
        except RecordError as error:
            problems.append(str(error))
        else:
            records[record["signature"]].append((file.name, record))
    for signature, found in records.items():
        if len(found) > 1:
            problems.append(
                f"{', '.join(name for name, _ in found)}: {len(found)} records with the signature {signature}"
            )
    return [found[0][1] for found in records.values() if len(found) == 1], problems


def paper_table(name: str, columns: tuple[str, ...], folder: Path = PAPER) -> list[dict[str, str]]:
    """The paper's numbers of one table, as text, a dictionary a row.

    Raises:
        PaperError: no such file, or a column is missing.
    """
    file = folder / f"{name}.csv"
    if not file.is_file():
        raise PaperError(f"{file.name}: not in {folder.name}/, where the paper's numbers are")
    with file.open(encoding="utf-8", newline="") as lines:
        reader = csv.DictReader(lines)
        there = reader.fieldnames or ()
        missing = [column for column in columns if column not in there]
        if missing:
            raise PaperError(f"{file.name}: no column {missing[0]!r}; {', '.join(there)} are there")
        return list(reader)
