"""Quotes: cells of a table in the text of results/findings.md, where no number is typed by hand.

    {table_real: of 1,000 passes > MeZO > 3e-05 > 0 > at 250 # 1}

is the first number of the cell in the column "at 250", in the row that begins with the cells
"MeZO", "3e-05" and "0", of the section of that table whose title is or contains "of 1,000 passes".
Without `# 1` it is the whole cell. `~words` stands for the one cell that contains these words, and
`0 + 1 + 2` for the mean over the three rows.
"""

import re
import statistics
from collections.abc import Sequence
from functools import cached_property
from itertools import product
from typing import TypeVar

from experiments.tables.artefacts import Artefact
from experiments.tables.findings.evidence import NOT_RUN
from experiments.tables.inputs import Inputs
from experiments.tables.layout import Section
from experiments.tables.rendering import maker

Found = TypeVar("Found")
PLAIN = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?")
NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")


class UnknownFinding(ValueError):
    """The text names a number that nothing makes."""


class Quotes:
    """What `format(Quotes(artefact, inputs), "SECTION > ROW > .. > COLUMN # N")` quotes of a table.

    A table of runs that shows none quotes "(not run)".

    Args:
        artefact: a table that is not one of accuracies alone.
        inputs: where its records come from.
    """

    def __init__(self, artefact: Artefact, inputs: Inputs) -> None:
        self.artefact, self.inputs = artefact, inputs.for_another()

    @cached_property
    def sections(self) -> Sequence[Section]:
        """The table as it is rendered."""
        return maker(self.artefact)(self.artefact, self.inputs)

    def __format__(self, spec: str) -> str:
        """The cell or number that a text asks for.

        Raises:
            UnknownFinding: no section, row, column or number is meant, or more than one.
        """
        where, _, number = spec.partition("#")
        parts = [part.strip() for part in where.split(">")]
        if len(parts) < 3:
            raise self._unknown(spec, "it must say SECTION > ROW > COLUMN")
        title, *row, column = parts
        if not self.sections or (self.artefact.sweeps and not self.inputs.used):
            return NOT_RUN
        titled = [s for s in self.sections if title == s.title]
        titled = titled or [s for s in self.sections if title in s.title]
        section = self._one(titled, "section", spec)
        if column not in section.columns:
            raise self._unknown(spec, f"its columns are {', '.join(section.columns)}")
        place = section.columns.index(column)
        alternatives = product(*(part.split(" + ") for part in row))
        rows = [self._one(_beginning(section, keys), "row", spec) for keys in alternatives]
        cells = [self._number(found[place], number, spec) for found in rows]
        if len(cells) > 1 and not all(map(PLAIN.fullmatch, cells)):
            raise self._unknown(spec, f"{', '.join(cells)} are no numbers that have a mean")
        return cells[0] if len(cells) == 1 else _mean(cells)

    def _number(self, cell: str, which: str, spec: str) -> str:
        """The whole cell, or the number in it that is asked for, counted from 1. A cell that does
        not begin with a number, such as "diverged (2 of 3)", has none."""
        if not which:
            return cell
        numbers = NUMBER.findall(cell) if NUMBER.match(cell) else []
        if not which.strip().isdecimal() or not 0 < int(which) <= len(numbers):
            raise self._unknown(spec, f"the cell is {cell!r}")
        return numbers[int(which) - 1]

    def _one(self, found: Sequence[Found], what: str, spec: str) -> Found:
        if len(found) != 1:
            raise self._unknown(spec, f"{len(found)} of its {what}s are meant, not one")
        return found[0]

    def _unknown(self, spec: str, why: str) -> UnknownFinding:
        return UnknownFinding(f"{{{self.artefact.name}:{spec}}} quotes no cell of the table: {why}")


def _beginning(section: Section, keys: Sequence[str]) -> list[tuple[str, ...]]:
    """The rows whose first cells are these."""
    return [
        row
        for row in section.rows
        if all(
            key[1:] in cell if key.startswith("~") else key == cell
            for key, cell in zip(keys, row, strict=False)
        )
    ]


def _mean(numbers: Sequence[str]) -> str:
    """The mean of numbers, with the digits that they have."""
    digits = max(len(number.partition(".")[2]) for number in numbers)
    return f"{statistics.fmean(float(number.replace(',', '')) for number in numbers):.{digits}f}"
