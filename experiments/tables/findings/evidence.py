"""Evidence for results/findings.md: blocks, cells, and pairs of runs of the mini profile that
differ in one thing."""

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from experiments.records.record import Record
from experiments.sweeps.grid import Point, load
from experiments.sweeps.selection import Shelf
from experiments.tables import published
from experiments.tables.accuracy import Block, blocks
from experiments.tables.budgets import BUDGETS
from experiments.tables.cells import in_points
from experiments.tables.inputs import Inputs

PROFILE = "mini"
NOTHING: Mapping[str, str] = MappingProxyType({})
NOT_RUN = "(not run)"
Score = Callable[[Record], float]


class Evidence:
    """The runs of the mini profile.

    Args:
        inputs: where the records come from.
    """

    def __init__(self, inputs: Inputs) -> None:
        self.inputs, self.records = inputs, inputs.records(PROFILE)

    def blocks(self, budget: int | None = None) -> Iterator[tuple[str, Block]]:
        """Yield ("Table 1", block) for every block of Tables 1 and 3, scored by test accuracy or at
        one of the equal budgets."""
        for name, kind in (("table1", published.table1()), ("table3", published.table3())):
            scored = kind if budget is None else replace(kind, scoring=BUDGETS[budget].scoring)
            for block in blocks(load(name, PROFILE), self.records, scored):
                yield (
                    f"Table {name.removeprefix('table')}, {block.title.partition(' (profile')[0]}",
                    block,
                )

    def cells(self, *names: str) -> Iterator[tuple[Point, Record]]:
        """Yield the run of every cell of the sweeps that ended well, each record once."""
        seen: set[str] = set()
        for name in names:
            grid, shelf = load(name, PROFILE), Shelf(self.records)
            for point in grid.points:
                chosen = shelf.choose(grid, point).point
                record = shelf.find(chosen) if chosen else None
                if (
                    record is not None
                    and record["status"] == "ok"
                    and record["signature"] not in seen
                ):
                    seen.add(record["signature"])
                    yield point, record

    def paired(
        self,
        key: str,
        one: str,
        other: str,
        *names: str,
        wanted: Mapping[str, str] = NOTHING,
        score: Score = in_points,
    ) -> list[tuple[Point, float]]:
        """Return the score with one value of a key minus the score with another, for every wanted
        cell whose other values are the same."""
        scores: dict[tuple[tuple[str, str], ...], dict[str, float]] = {}
        for point, record in self.cells(*names):
            if all(point.get(k) == v for k, v in wanted.items()) and point[key] in (one, other):
                rest = tuple(sorted((k, v) for k, v in point.items() if k != key))
                scores.setdefault(rest, {})[point[key]] = score(record)
        return [
            (dict(rest), both[one] - both[other]) for rest, both in scores.items() if len(both) == 2
        ]


def mean(values: Iterable[float]) -> str:
    """ "+1.25 points on average over 8", or a text that says that nothing was run."""
    values = list(values)
    return (
        f"{statistics.fmean(values):+.2f} points on average over {len(values)}"
        if values
        else NOT_RUN
    )


def sides(values: Sequence[float]) -> str:
    return f"{sum(v > 0 for v in values)} better, {sum(v < 0 for v in values)} worse"


def numbers(block: Block, source: str) -> dict[str, dict[str, float]]:
    return {label: row for (label, of), row in block.numbers.items() if of == source}
