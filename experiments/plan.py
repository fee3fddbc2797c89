"""Plan of a sweep: what `make run-table1` would run, and how long that would take.

python -m experiments.plan table1 --profile paper
"""

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bszo.errors import ConfigError
from experiments.records.record import Record
from experiments.records.store import PACKED, gather, left_out
from experiments.sweeps.estimate import Clock, forwards_of, memory_of
from experiments.sweeps.grid import PROFILES, Grid, GridError, Point, holds, load, names
from experiments.sweeps.matching import PLACES, picked, says_where
from experiments.sweeps.progress import clock
from experiments.sweeps.selection import Shelf, missing_runs

Kind = tuple[str, str, str]  # model, precision, method


@dataclass
class Line:
    """One kind of run: a model in a precision under a method.

    Attributes:
        cells: runs that the cells need, done or not.
        choosing: runs still to do that choose a learning rate.
        then: runs still to do with the chosen rate; their greatest number where none is chosen yet.
        forwards: forward passes of all runs still to do, if none of them stops early.
        seconds: estimate for the runs that can be estimated.
        unknown: number of runs that cannot be.
        source: where the estimate comes from.
        memory: GPU memory in GB, "-" where it is unknown.
    """

    cells: int = 0
    choosing: int = 0
    then: int = 0
    forwards: int = 0
    seconds: float = 0.0
    unknown: int = 0
    source: str = ""
    memory: str = "-"

    @property
    def runs(self) -> int:
        return self.choosing + self.then


def plan(grid: Grid, records: Sequence[Record], pace: Clock | None = None) -> dict[Kind, Line]:
    """The runs still to do, counted by kind.

    Args:
        records: that are there.
        pace: of earlier runs; by default of these records.
    """
    shelf, lines, pace = Shelf(records), {}, pace or Clock(records)
    choosing, then = missing_runs(grid, shelf)
    waiting = [
        point
        for point in grid.points
        if (missing := shelf.choose(grid, point).missing)
        and not any(holds(run, point) for run in missing)
    ]
    for point in grid.points:
        _line(lines, point).cells += 1
    for kind, runs in (("choosing", choosing), ("then", then), ("then", waiting)):
        for run in runs:
            line = _line(lines, run)
            setattr(line, kind, getattr(line, kind) + 1)
            line.forwards += forwards_of(run)
            seconds, line.source = pace.seconds(run)
            line.seconds += seconds or 0.0
            line.unknown += seconds is None
            line.memory = memory_of(run)
    return lines


def _line(lines: dict[Kind, Line], point: Point) -> Line:
    return lines.setdefault((point["model"], point["precision"], point["optimizer"]), Line())


def total(lines: Iterable[Line]) -> Line:
    summed = Line()
    for line in lines:
        for name in ("cells", "choosing", "then", "forwards", "seconds", "unknown"):
            setattr(summed, name, getattr(summed, name) + getattr(line, name))
    return summed


def part_of(grid: Grid, given: Mapping[str, str]) -> Grid:
    """The grid of the points that have these values. Keys that say where a run is pick no points.

    Raises:
        GridError: no point has them.
    """
    for key, text in given.items():
        if key not in PLACES and not says_where(key):
            grid = picked(grid, key, text.split(","))
            if not grid.points:
                raise GridError(f"{key}={text}: no run of {grid.name} has it")
    return grid


def made_locally(records: Sequence[Record], given: Mapping[str, str]) -> Sequence[Record]:
    """The records of the model and the rows that are named, as a sweep counts them.

    Raises:
        GridError: a folder is not named, or is not there.
    """
    from experiments.training.build import made_there  # loads torch

    for key in PLACES:
        if not Path(given.get(key, "")).expanduser().is_dir() or not given.get(key):
            raise GridError(f"{key}={given.get(key, '')}: a folder is needed in the profile local")
    return made_there(records, *({key.partition(".")[2]: given[key]} for key in PLACES))


COLUMNS = (
    "model",
    "precision",
    "method",
    "cells' runs",
    "choosing",
    "then",
    "forward passes",
    "GPU memory GB",
    "h:mm:ss",
    "from",
)


def as_table(grid: Grid, lines: dict[Kind, Line]) -> Table:
    table = Table(
        box=None, pad_edge=False, title=f"{grid.name}, profile {grid.profile}", title_justify="left"
    )
    for heading in COLUMNS:
        left = heading in ("model", "precision", "method", "from")
        table.add_column(heading, justify="left" if left else "right", no_wrap=True)
    for key, line in [*lines.items(), (("all", "", ""), total(lines.values()))]:
        counts: tuple[Any, ...] = (line.cells, line.choosing, line.then, f"{line.forwards:,}")
        taken = "-" if line.runs and line.unknown == line.runs else clock(line.seconds)
        table.add_row(*key, *map(str, counts), line.memory, taken, line.source)
    return table


def summary(line: Line, jobs: int) -> str:
    """ "31 runs, 0:04:10 of one process, 0:02:05 with 2 at a time"."""
    text = f"{line.runs} runs, {clock(line.seconds)} of one process"
    text += f", {clock(line.seconds / jobs)} with {jobs} at a time" if jobs > 1 else ""
    return text + (
        f", without {line.unknown} runs that have nothing to go by" if line.unknown else ""
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="What the runs of artefacts would take.")
    parser.add_argument(
        "words",
        nargs="+",
        metavar="SWEEP|KEY=VALUE",
        help=(
            f"artefacts ({', '.join(names())}), and what their sweep would be given: values that"
            " pick among the runs, model.path=DIR and data.root=DIR of the profile local"
        ),
    )
    parser.add_argument("--profile", default="mini", help=", ".join(PROFILES))
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    options = parser.parse_intermixed_args(arguments)
    given = dict(word.split("=", 1) for word in options.words if "=" in word)
    records, problems = gather(PACKED / options.profile)
    pace, console = Clock(records), Console()
    console.width = max(console.width, 160)
    to_do, from_nothing, blocks = Line(), Line(), False
    try:
        records = made_locally(records, given) if options.profile == "local" else records
        for name in (word for word in options.words if "=" not in word):
            grid = part_of(load(name, options.profile), given)
            lines = plan(grid, records, pace)
            console.print(as_table(grid, lines))
            to_do = total([to_do, *lines.values()])
            from_nothing = total([from_nothing, *plan(grid, [], pace).values()])
            blocks |= any(point.get("directions.blocks", "none") != "none" for point in grid.points)
    except (GridError, ConfigError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"To do: {summary(to_do, options.jobs)}.")
    print(f"From nothing, all of it: {summary(from_nothing, options.jobs)}.")
    if blocks:
        print(
            "Block-wise runs are counted with one block; a model has one a layer, and embeddings"
            " and head."
        )
    for line in left_out(problems, f" of profile {options.profile}"):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
