"""Forward passes until a run's validation loss is where the baseline's ends."""

import statistics
from collections.abc import Mapping, Sequence
from math import inf

from experiments.records.record import Record
from experiments.tables.layout import Section

NOTHING = "-"
Run = tuple[str, str]  # task, seed


def losses(record: Record) -> list[tuple[float, float]]:
    """(forward passes, validation loss) of every evaluation that has one."""
    return [
        (point["num_forwards"], loss)
        for point in record["curve"]
        if (loss := point.get("validation_loss")) is not None  # the first runs have none
    ]


def passes_until(points: Sequence[tuple[float, float]], level: float) -> float:
    """Passes until the loss is at most the level, on straight lines between the evaluations;
    infinite where it never is.

    Args:
        points: (passes, loss) of every evaluation, in order.
        level: the loss to come to.
    """
    before: tuple[float, float] | None = None
    for passes, loss in points:
        if loss <= level:
            if before is None:
                return passes
            share = (before[1] - level) / (before[1] - loss)
            return before[0] + share * (passes - before[0])
        before = passes, loss
    return inf


def until_section(
    title: str, baseline: str, rows: Sequence[tuple[str, Mapping[Run, Record | None]]]
) -> Section | None:
    """Build a line a method over the runs that it shares with the baseline; None where no run of
    the baseline has a loss.

    Args:
        title: of the section.
        baseline: the name of one of the rows.
        rows: name -> the records of a method's runs; a run that failed reaches nothing.
    """
    ends = {
        run: losses(record)[-1][1]
        for run, record in dict(rows)[baseline].items()
        if record is not None and record["status"] == "ok" and losses(record)
    }
    if not ends:
        return None
    lines, old = [], 0
    for name, records in rows:
        for record in records.values():
            old += record is not None and record["status"] == "ok" and not losses(record)
        there = {
            run: r
            for run in ends
            if (r := records.get(run)) is not None and (r["status"] != "ok" or losses(r))
        }
        passes = [
            passes_until(losses(record), ends[run]) if record["status"] == "ok" else inf
            for run, record in there.items()
        ]
        lines.append(
            (
                name,
                str(len(passes)),
                str(sum(found < inf for found in passes)),
                _count(statistics.median(passes) if passes else inf),
            )
        )
    columns = ("method", "runs", "that get there", "forward passes, median")
    notes = [NOTE.format(baseline=baseline)]
    if old:
        notes.append(f"Left out: {old} runs whose records are older than the validation loss.")
    return Section(title, columns, tuple(lines), notes=tuple(notes))


NOTE = (
    "Forward passes until the validation loss is at most that of {baseline} at its end, on the same"
    " task and with the same seed; between two evaluations on a straight line. The median is over"
    " all runs, those included that never get there; it is - where half of them do not."
)


def _count(passes: float) -> str:
    return NOTHING if passes == inf else f"{passes:,.0f}"
