"""Sections of the real study's table on single runs: the course of each, be it a cell of the grid,
beside the grid, or of another task."""

import math
from collections.abc import Iterator, Sequence

from experiments.records.passes import passes_of
from experiments.sweeps.selection import Record
from experiments.tables.layout import Section
from experiments.tables.real.beside import nearest
from experiments.tables.real.study import NEAR, NOTHING, Row, losses

SHORTLY = (250, 500, 750)  # passes at which a run beside the grid is shown too
TOLD = ("method", "what it changes", "lr", "seed", "passes")  # of a run beside the grid
COURSE = (*(f"at {passes:,}" for passes in SHORTLY), "at the end", "lowest loss", "test %")


def course_section(budget: int, rows: Sequence[Row]) -> Section | None:
    """Build the course of every run of a budget: validation loss and accuracy at quarters of it,
    and the test accuracy of the parameters with the best validation accuracy. None where there is
    no run."""
    shown_at = [budget * quarter // 4 for quarter in (1, 2, 3, 4)]
    lines = []
    for row in rows:
        chosen = row.choice.point[row.rate_key] if row.choice.point else None
        runs = [(rate, "0", record) for rate, record in row.tried.items()]
        runs += [(chosen, s, r) for s, r in row.runs.items() if chosen and s != "0" and r]
        for rate, seed, record in runs:
            lines.append((row.name, f"{float(rate):g}", seed, *_course(record, shown_at)))
    starts = sorted({_at(r, 0) for row in rows for r in row.all_runs} - {NOTHING})
    columns = ("method", "lr", "seed", *(f"at {passes:,}" for passes in shown_at))
    columns += COURSE[-2:]
    note = (
        f"Validation loss (accuracy, %) after so many passes; {' or '.join(starts)} before the"
        " first, as type and processor round."
    )
    title = f"The course of every run of {budget:,} passes"
    return Section(title, columns, tuple(lines), notes=(note,)) if lines else None


def _course(record: Record, shown_at: Sequence[int]) -> list[str]:
    """A run's course, its lowest loss and its test accuracy. One that did not end well has its
    status where it would have had more evaluations, and at the end."""
    course = [_at(record, passes) for passes in shown_at]
    if record["status"] != "ok":
        status = record["status"].replace("_", " ")
        course = [status if cell == NOTHING else cell for cell in course[:-1]] + [status]
    test = record["test_accuracy"] if record["status"] == "ok" else None
    lowest = min(((loss, passes) for passes, loss in losses(record)), default=None)
    best = NOTHING if lowest is None else f"{lowest[0]:.3f} at {lowest[1]:,.0f}"
    last = NOTHING if test is None else f"{100 * test:.1f}"
    return [*course, best, last]


def _at(record: Record, passes: int) -> str:
    """Loss and accuracy at the last evaluation within so many passes."""
    within = [point for point in record["curve"] if passes_of(record, point) <= passes]
    if not within or passes_of(record, within[-1]) < NEAR * passes:
        return NOTHING
    loss = within[-1].get("validation_loss")
    if loss is None:
        return NOTHING
    return f"{loss:.3f} ({100 * within[-1]['validation_accuracy']:.1f})"


def beside_section(rows: Sequence[Row], records: Sequence[Record]) -> Section | None:
    """Build the course of every run that is in no cell; None where there is none."""
    lines = [(*told, *course) for _, told, course in _told(rows, records)]
    columns = (*TOLD, *COURSE)
    note = (
        "Runs that are in no cell above; each changes what its line says of the cell that is most"
        " like it. Numbers as in the course of every run."
    )
    return (
        Section("Beside the grid", columns, tuple(sorted(lines)), notes=(note,)) if lines else None
    )


def tasks_section(rows: Sequence[Row], records: Sequence[Record]) -> Section | None:
    """Build the course of every run of the same model on another task; None where there is none."""
    lines = []
    for record, told, course in _told(rows, records, same_task=False):
        start = record["zero_shot_accuracy"]
        shown = NOTHING if start is None else f"{100 * start:.1f}"
        lines.append((record["choices"]["task"], *told, shown, *course))
    columns = ("task", *TOLD, "zero-shot %", *COURSE)
    note = (
        "The same model on other rows, at rates that were chosen for the task above. Numbers as in"
        " the course of every run."
    )
    return Section("Other tasks", columns, tuple(sorted(lines)), notes=(note,)) if lines else None


def _told(
    rows: Sequence[Row], records: Sequence[Record], *, same_task: bool = True
) -> Iterator[tuple[Record, tuple[str, ...], list[str]]]:
    """Each record that is no cell, what is said of it beside the cell that it is most like (see
    `nearest`), and its course."""
    cells = {r["signature"]: r for row in rows for r in row.all_runs}
    names = {r["signature"]: row.name for row in rows for r in row.all_runs}
    for record in records if cells else ():
        if record is cells.get(record["signature"]):
            continue
        cell, changes = nearest(record, cells, same_task=same_task)
        passes = passes_of(record)
        node = record["config"]["optimizer"]  # which may be of a file of somebody's own
        rate = node.get("lr", node.get("algorithm", {}).get("lr"))
        shown = NOTHING if rate is None else f"{rate:g}"
        told = (names[cell], changes, shown, str(record["config"]["seed"]), f"{passes:,.0f}")
        yield record, told, _course(record, [*SHORTLY, math.ceil(passes)])
