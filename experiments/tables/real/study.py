"""The runs of the study on a real model: rows, rates, and accuracy at equal forward passes.

A pass is a forward pass of one batch; a backward pass counts as two and a forward-mode pass as
three, so that first-order methods stand on the same axis.
"""

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from experiments.records.passes import passes_of, weight
from experiments.sweeps.grid import Grid, Point, load, rate_key
from experiments.sweeps.matching import picked
from experiments.sweeps.selection import Choice, Record, Shelf
from experiments.tables import until
from experiments.tables.cells import Cell, in_points
from experiments.tables.equal_passes import label
from experiments.tables.paired import difference

SWEEP = "real"
# passes at which the runs end -> those at which their validation is shown
BUDGETS = {1000: (250, 500, 1000), 4000: (1000, 2000, 4000)}
NEAR = 0.9  # share of a budget that the last evaluation before it must have reached
BASELINE = "MeZO"
NOTHING = "-"


@dataclass(frozen=True)
class Row:
    """A method's runs.

    Attributes:
        name: of the method, with what distinguishes it from another of the same name.
        precision: of its parameters.
        choice: of its learning rate.
        rate_key: where that rate stands in a run's point.
        tried: rate -> record of the run that tried it, the smallest rate first.
        runs: seed -> record of the chosen rate, None where it is not run yet.
    """

    name: str
    precision: str
    choice: Choice
    rate_key: str
    tried: Mapping[str, Record]
    runs: Mapping[str, Record | None]

    @property
    def all_runs(self) -> list[Record]:
        """Every run of the method, those that tried a rate among them."""
        return [*self.tried.values(), *(r for r in self.runs.values() if r is not None)]

    @property
    def ended(self) -> list[str]:
        """The seeds of the runs that have a record, however they ended."""
        return [seed for seed, record in self.runs.items() if record is not None]

    @property
    def well(self) -> dict[str, Record]:
        """The runs of a method that ended with status ok."""
        return {seed: r for seed, r in self.runs.items() if r is not None and r["status"] == "ok"}


def grid_of(budget: int) -> Grid:
    """The study's runs of so many forward passes."""
    return picked(load(SWEEP, SWEEP), "protocol.max_forwards", [str(budget)])


def rows_of(grid: Grid, shelf: Shelf) -> list[Row]:
    """A row a method, in the order of the sweep's file."""
    groups: dict[tuple[tuple[str, str], ...], list[Point]] = {}
    for point in grid.points:
        same = tuple(sorted((key, value) for key, value in point.items() if key != "seed"))
        groups.setdefault(same, []).append(point)
    rows = []
    for points in groups.values():
        first = points[0]
        name = label(first)
        choice = shelf.choose(grid, first)
        key = rate_key(first["optimizer"], grid.conf)
        runs = {
            point["seed"]: shelf.find({**point, key: choice.point[key]}) if choice.point else None
            for point in points
        }
        tried = dict(_tried(grid, shelf, first, key, choice))
        rows.append(Row(name, first["precision"], choice, key, tried, runs))
    return rows


def _tried(
    grid: Grid, shelf: Shelf, point: Point, key: str, choice: Choice
) -> Iterator[tuple[str, Record]]:
    """Every rate that has a run, the smallest first."""
    rates = {run[key] for run in grid.candidates(point)} | set(choice.validation)
    rates |= {run[key] for run in choice.missing}
    for rate in sorted(rates, key=float):
        record = shelf.find({**grid.candidates(point)[0], key: rate})
        if record is not None:
            yield rate, record


def curve(record: Record) -> list[tuple[float, float]]:
    """(passes, validation accuracy in per cent) of every evaluation."""
    return [
        (passes_of(record, point), 100 * point["validation_accuracy"]) for point in record["curve"]
    ]


def at_budget(record: Record, budget: int) -> float | None:
    """Validation accuracy at the last evaluation within the budget; None where it is far from
    it."""
    return last_within(curve(record), budget)


def last_within(values: Sequence[tuple[float, float]], budget: int) -> float | None:
    """The last value within the budget; None where it is far from it."""
    within = [(passes, value) for passes, value in values if passes <= budget]
    return within[-1][1] if within and within[-1][0] >= NEAR * budget else None


def passes_to(record: Record, level: float) -> float | None:
    """Passes at the first evaluation that is at least so good; None where none is."""
    return next((passes for passes, score in curve(record) if score >= level), None)


def losses(record: Record) -> list[tuple[float, float]]:
    """(passes, validation loss) of every evaluation that has one."""
    each = weight(record)
    return [(each * passes, loss) for passes, loss in until.losses(record)]


def to_best(record: Record, other: Record) -> float:
    """Passes after which the validation loss is as low as the other run's lowest; infinite where it
    never is."""
    return until.passes_until(losses(record), min(loss for _, loss in losses(other)))


def passes_to_best(row: Row, other: Row) -> tuple[list[float], int]:
    """Passes after which a method's validation loss is as low as the other's lowest with the same
    seed. A run that failed never comes so far.

    Returns:
        One number for each seed that comes so far, and how many seeds both methods have.
    """
    seeds = [seed for seed in row.ended if seed in other.well and losses(other.well[seed])]
    found = [to_best(row.well[s], other.well[s]) for s in seeds if s in row.well]
    return [passes for passes in found if passes < math.inf], len(seeds)


def reached(found: Sequence[float], count: int) -> str:
    """The median of the passes to something, over all `count` runs: one that never came there
    counts as later than all that did. How many did is added where not all did."""
    if not found:
        return NOTHING
    median = statistics.median([*found, *[math.inf] * (count - len(found))])
    text = f"{median:,.0f}" if math.isfinite(median) else NOTHING
    return text if len(found) == count else f"{text} ({len(found)} of {count})"


def rate_of(row: Row) -> str:
    """The chosen learning rate as a cell."""
    chosen = row.choice.point
    return f"{float(chosen[row.rate_key]):g}" if chosen else NOTHING


def last_loss(record: Record) -> str:
    """The validation loss at the end of a run that ended well, as a cell."""
    loss = _last(record) if record["status"] == "ok" else None
    return "failed" if loss is None else f"{loss:.3f}"


def mean_last_loss(row: Row) -> str:
    """The validation loss at the end of a method's runs as a cell: mean, deviation, and how many of
    the runs that there are have ended well, with a finite one."""
    found = [loss for record in row.well.values() if (loss := _last(record)) is not None]
    if not found:
        return NOTHING
    spread = f"{statistics.stdev(found):.3f}; " if len(found) > 1 else ""
    of = "" if len(found) == len(row.ended) else f" of {len(row.ended)}"
    return f"{statistics.fmean(found):.3f} ({spread}{len(found)}{of})"


def _last(record: Record) -> float | None:
    return record["curve"][-1].get("validation_loss")


def test_accuracy(row: Row) -> str:
    """Test accuracy of a method's runs, in per cent: a table's cell."""
    return cell([in_points(record) for record in row.well.values()], row)


def cell(scores: Sequence[float | None], row: Row) -> str:
    """The scores of a method's runs as a table's cell."""
    failures = tuple(r["status"] for r in row.runs.values() if r and r["status"] != "ok")
    failures += row.choice.failed[:1] * len(row.runs)
    return Cell(tuple(s for s in scores if s is not None), len(row.runs), failures).text


def pairs_of(row: Row, other: Row, shelf: Shelf, most: int = 20) -> list[tuple[Record, Record]]:
    """Both methods' runs at their chosen rates with every seed below `most` that both have been run
    with, the grid's or not."""
    pairs = []
    for seed in range(most):
        points = [{**r.choice.point, "seed": str(seed)} for r in (row, other) if r.choice.point]
        found = [record for point in points if (record := shelf.find(point))]
        if len(found) == 2 and all(record["status"] == "ok" for record in found):
            pairs.append((found[0], found[1]))
    return pairs


def over_seeds(
    row: Row, other: Row, shelf: Shelf, score: Callable[[Record], float] = in_points
) -> str:
    """As `against`, by any score and over the seeds of `pairs_of`."""
    if row is other:
        return NOTHING
    scores = [tuple(map(score, pair)) for pair in pairs_of(row, other, shelf)]
    return difference(*zip(*scores, strict=True)) if scores else NOTHING


def against(row: Row, other: Row) -> str:
    """Test accuracy minus the other's over the seeds that both have: mean, p of a paired t-test."""
    if row is other:
        return NOTHING
    seeds = [seed for seed in row.well if seed in other.well]
    if not seeds:
        return NOTHING
    return difference(*([in_points(r.well[s]) for s in seeds] for r in (row, other)))
