"""`python -m experiments.plan table1 --profile paper`: what `make run-table1` would run, and what it would take.

Forward passes a step are counted by taking one on a toy; hours come from records of the same model, precision and
method where there are any, else from the paper's Table 4, and it is said which.
"""

import argparse
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from experiments.grid import CONF, Grid, GridError, Point, load, names
from experiments.record import RecordError, load_all
from experiments.selection import Record, Shelf, missing_runs
from experiments.tables.names import METHODS, MODELS, shown
from experiments.tables.sources import RUNS, PaperError, paper_table


@dataclass
class Line:
    """One kind of run: a model in a precision under a method.

    Attributes:
        cells: runs that a cell needs, done or not.
        choosing: runs still to do that choose a learning rate.
        then: runs still to do with the chosen rate; at most, where the choice is not made.
        forwards: of all runs still to do, if none stops early.
        hours: estimate for them, None where there is nothing to go by.
        source: where the estimate comes from.
        memory: GPU memory in GB, "-" where unknown.
    """

    cells: int = 0
    choosing: int = 0
    then: int = 0
    forwards: int = 0
    hours: float | None = 0.0
    source: str = ""
    memory: str = "-"


@cache
def forwards_a_step(optimizer: str, more: tuple[str, ...]) -> int:
    """Loss evaluations of one step, counted on one small matrix."""
    import torch

    with initialize_config_dir(str(CONF), version_base="1.3"):
        config: Any = compose("config", overrides=[f"optimizer={optimizer}", *more])
    toy = torch.nn.Linear(4, 4, bias=False)
    node = OmegaConf.create(OmegaConf.to_container(config.optimizer, resolve=True))
    made = instantiate(node)(toy.parameters(), module=toy)
    made.step(lambda: toy(torch.ones(1, 4)).square().sum())
    return made.num_forwards


def protocol_of(point: Point) -> dict[str, Any]:
    """The protocol's values, with the point's own."""
    shipped = yaml.safe_load((CONF / "protocol" / f"{point['protocol']}.yaml").read_text(encoding="utf-8"))
    own = {key.partition(".")[2]: yaml.safe_load(value) for key, value in point.items() if key.startswith("protocol.")}
    return {**shipped, **own}


def forwards_of(point: Point) -> int:
    """Forward passes of a run's training that does not stop early; block-wise: of one block."""
    a_step = forwards_a_step(
        point["optimizer"], tuple(f"{k}={v}" for k, v in sorted(point.items()) if k.startswith("optimizer."))
    )
    protocol = protocol_of(point)
    limit = protocol["max_forwards"]
    return protocol["num_steps"] * a_step if limit is None else min(limit, protocol["num_steps"] * a_step)


def seconds_of(point: Point, records: Sequence[Record]) -> tuple[float | None, str]:
    """Seconds of one run, and where the number comes from."""
    alike = [record["train_seconds"] + record["evaluation_seconds"] for record in records
             if record["status"] == "ok" and all(record["choices"].get(group) == point[group]
                                                 for group in ("model", "precision", "optimizer"))]  # fmt: skip
    if alike:
        return statistics.fmean(alike), f"{len(alike)} records"
    printed = table4().get((shown(MODELS, point["model"]), shown(METHODS, point["optimizer"])))
    if printed is None:
        return None, "nothing to go by"
    return printed[1] / 1e3 * protocol_of(point)["num_steps"], "Table 4, without evaluation"


@cache
def table4() -> dict[tuple[str, str], tuple[float, float]]:
    """(model, method) -> peak GB and milliseconds a step on the paper's GPU."""
    rows = paper_table("table4", ("model", "method", "peak_memory_gb", "step_time_ms"))
    return {(r["model"], r["method"]): (float(r["peak_memory_gb"]), float(r["step_time_ms"])) for r in rows}


def memory_of(point: Point) -> str:
    printed = table4().get((shown(MODELS, point["model"]), shown(METHODS, point["optimizer"])))
    return "-" if printed is None else f"{printed[0]} (Table 4)"


def plan(grid: Grid, records: Sequence[Record]) -> dict[tuple[str, str, str], Line]:
    """(model, precision, method) -> what is to do."""
    shelf, lines = Shelf(records), {}
    choosing, then = missing_runs(grid, shelf)
    waiting = [point for point in grid.points if shelf.choose(grid, point).missing]
    for point in grid.points:
        _line(lines, point).cells += 1
    for kind, runs in (("choosing", choosing), ("then", then), ("then", _beyond(grid, waiting))):
        for run in runs:
            line = _line(lines, run)
            setattr(line, kind, getattr(line, kind) + 1)
            line.forwards += forwards_of(run)
            seconds, line.source = seconds_of(run, records)
            line.hours = None if seconds is None or line.hours is None else line.hours + seconds / 3600
            line.memory = memory_of(run)
    return lines


def _beyond(grid: Grid, waiting: Iterable[Point]) -> list[Point]:
    """The cells' runs that no choosing run will be: those whose seed or fidelity the choice does not have."""
    select = grid.select or {}
    return [point for point in waiting if any(point.get(key) != value for key, value in select.items())]


def _line(lines: dict[tuple[str, str, str], Line], point: Point) -> Line:
    return lines.setdefault((point["model"], point["precision"], point["optimizer"]), Line())


def shown_table(grid: Grid, lines: dict[tuple[str, str, str], Line]) -> Table:
    table = Table(box=None, pad_edge=False, title=f"{grid.name}, profile {grid.profile}", title_justify="left")
    headings = (
        "model",
        "precision",
        "method",
        "cells' runs",
        "choosing",
        "then",
        "forward passes",
        "GPU memory GB",
        "hours",
        "from",
    )
    for heading in headings:
        table.add_column(
            heading, justify="left" if heading in ("model", "precision", "method", "from") else "right", no_wrap=True
        )
    for key, line in [*lines.items(), (("all", "", ""), _total(lines.values()))]:
        hours = "-" if line.hours is None else f"{line.hours:,.2f}"
        numbers = (
            str(line.cells),
            str(line.choosing),
            str(line.then),
            f"{line.forwards:,}",
            line.memory,
            hours,
            line.source,
        )
        table.add_row(*key, *numbers)
    return table


def _total(lines: Iterable[Line]) -> Line:
    lines = list(lines)
    known = [line.hours for line in lines if line.hours is not None]
    partial = " (without those with nothing to go by)" if len(known) < len(lines) else ""
    counts = [sum(getattr(line, name) for line in lines) for name in ("cells", "choosing", "then", "forwards")]
    return Line(*counts, hours=sum(known), source=partial.strip())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="What an artefact's runs would take.")
    parser.add_argument("artefact", help=", ".join(names()))
    parser.add_argument("--profile", default="mini", help="paper, mini or local")
    options = parser.parse_args(arguments)
    try:
        grid = load(options.artefact, options.profile)
        runs = RUNS / options.profile
        lines = plan(grid, load_all([runs]) if runs.is_dir() else [])
    except (GridError, PaperError, RecordError) as error:
        print(error, file=sys.stderr)
        return 1
    console = Console()
    console.width = max(console.width, 160)
    console.print(shown_table(grid, lines))
    if any(point.get("directions.blocks", "none") != "none" for point in grid.points):
        console.print("Block-wise runs are counted with one block; a model has one a layer, and embeddings and head.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
