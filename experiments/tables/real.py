"""Table of the study on a real model: accuracy at equal forward passes, rates tried, paired tests.

A pass is a forward pass of one batch; a backward pass counts as two and a forward-mode pass as
three, so that first-order methods stand on the same axis.
"""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from experiments.sweeps.grid import Grid, Point, load, rate_key
from experiments.sweeps.matching import picked
from experiments.sweeps.selection import Choice, Record, Shelf
from experiments.tables.artefacts import Artefact
from experiments.tables.cells import Cell
from experiments.tables.equal_passes import label
from experiments.tables.inputs import Inputs
from experiments.tables.layout import Section
from experiments.tables.paired import difference

SWEEP = "real"
# passes at which the runs end -> those at which their validation is shown
BUDGETS = {1000: (250, 500, 1000), 4000: (1000, 2000, 4000)}
NEAR = 0.9  # share of a budget that the last evaluation before it must have reached
LEVELS = (70, 75, 80, 85)  # per cent of validation
FORWARD_MODE = {"forward-grad": 3}  # passes that one pass of these methods counts
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


def weight(record: Record) -> float:
    """How many passes one forward pass of the run counts as, with its share of the backward
    passes."""
    if own := FORWARD_MODE.get(record["choices"]["optimizer"]):
        return own
    forwards = record["num_forwards"]
    return 1 + 2 * record["num_backwards"] / forwards if forwards else 1


def curve(record: Record) -> list[tuple[float, float]]:
    """(passes, validation accuracy in per cent) of every evaluation."""
    each = weight(record)
    return [
        (each * point["num_forwards"], 100 * point["validation_accuracy"])
        for point in record["curve"]
    ]


def at_budget(record: Record, budget: int) -> float | None:
    """Validation accuracy at the last evaluation within the budget; None where it is far from
    it."""
    return _last_within(curve(record), budget)


def _last_within(values: Sequence[tuple[float, float]], budget: int) -> float | None:
    within = [(passes, value) for passes, value in values if passes <= budget]
    return within[-1][1] if within and within[-1][0] >= NEAR * budget else None


def passes_to(record: Record, level: float) -> float | None:
    """Passes at the first evaluation that is at least so good; None where none is."""
    return next((passes for passes, score in curve(record) if score >= level), None)


def rate_of(row: Row) -> str:
    """The chosen learning rate as a cell."""
    chosen = row.choice.point
    return f"{float(chosen[row.rate_key]):g}" if chosen else NOTHING


def last_loss(record: Record | None) -> str:
    """The validation loss at the end of a run that ended well, as a cell."""
    if record is None:
        return NOTHING
    loss = record["curve"][-1]["validation_loss"] if record["status"] == "ok" else None
    return "failed" if loss is None else f"{loss:.3f}"


def test_accuracy(row: Row) -> str:
    """Test accuracy of a method's runs, in per cent: a table's cell."""
    return _cell([100 * r["test_accuracy"] for r in row.well.values()], row)


def _cell(scores: Sequence[float | None], row: Row) -> str:
    failures = tuple(r["status"] for r in row.runs.values() if r and r["status"] != "ok")
    failures += row.choice.failed[:1] * len(row.runs)
    return Cell(tuple(s for s in scores if s is not None), len(row.runs), failures).text


def _reached(runs: Sequence[Record], level: float) -> str:
    """The median of the runs that came to a level, and how many did where not all."""
    found = [passes for record in runs if (passes := passes_to(record, level)) is not None]
    if not found:
        return NOTHING
    of = "" if len(found) == len(runs) else f" ({len(found)} of {len(runs)})"
    return f"{statistics.median(found):,.0f}{of}"


def against(row: Row, other: Row) -> str:
    """Test accuracy minus the other's over the seeds that both have: mean, p of a paired t-test."""
    if row is other:
        return NOTHING
    seeds = [seed for seed in row.well if seed in other.well]
    if not seeds:
        return NOTHING
    return difference(*([100 * r.well[s]["test_accuracy"] for s in seeds] for r in (row, other)))


def _median(values: Sequence[float | None], form: str) -> str:
    found = [value for value in values if value is not None]
    return format(statistics.median(found), form) if found else NOTHING


def _standard_errors(rows: Sequence[Row]) -> str:
    """How far one run's scores may be from what they estimate, for so many rows; of the first run
    that ended well."""
    record = next((record for row in rows for record in row.well.values()), None)
    if record is None:
        return ""
    counts = record["data"]["num_examples"]
    errors = [
        100 * math.sqrt(record[f"{split}_accuracy"] * (1 - record[f"{split}_accuracy"]) / count)
        for split, count in ((split, counts[split]) for split in ("test", "validation"))
    ]
    return (
        f" The standard error of one run's score is {errors[0]:.1f} points on the"
        f" {counts['test']:,} test rows and {errors[1]:.1f} on the {counts['validation']:,} of"
        " validation."
    )


def accuracy_section(budget: int, rows: Sequence[Row]) -> Section:
    """Build the accuracies of the runs of a budget: one line for each method, zero-shot first."""
    shown_at = BUDGETS[budget]
    columns = ("method", "lr", "test %", f"minus {BASELINE}")
    columns += tuple(f"validation % at {passes:,}" for passes in shown_at)
    columns += tuple(f"passes to {level} %" for level in LEVELS)
    columns += ("training, s", "peak GB")
    lines = []
    start = [100 * r["zero_shot_accuracy"] for row in rows for r in row.well.values()]
    before = [curve(r)[0][1] for row in rows for r in row.well.values()]
    if start:
        floor = (f"{statistics.fmean(start):.2f}", NOTHING)
        first = (f"{statistics.fmean(before):.2f} at 0", *[NOTHING] * (len(shown_at) - 1))
        lines.append(("zero-shot", NOTHING, *floor, *first, *[NOTHING] * (len(LEVELS) + 2)))
    baseline = next((row for row in rows if row.name == BASELINE), None)
    for row in rows:
        well = list(row.well.values())
        lines.append(
            (
                f"{row.name} ({row.precision})",
                rate_of(row),
                test_accuracy(row),
                against(row, baseline) if baseline else NOTHING,
                *(_cell([at_budget(r, passes) for r in well], row) for passes in shown_at),
                *(_reached(well, level) for level in LEVELS),
                _median([r["train_seconds"] for r in well], ",.0f"),
                _median([(r["peak_memory_bytes"] or 0) / 1e9 or None for r in well], ".2f"),
            )
        )
    notes = (
        "Mean (sample deviation; runs) over the seeds; passes, seconds and memory are medians. Test"
        " accuracy is that of the parameters with the best validation accuracy;"
        " validation is the last evaluation within the budget and not before 90 % of it. The peak"
        " is that of the process's resident set, libraries included."
        f"{_standard_errors(rows)}",
        "A pass is a forward pass of 16 rows; a backward pass counts as two, a forward-mode pass as"
        " three. The difference is over the seeds that both methods have, with the p of a paired"
        " t-test; three seeds can show large differences alone.",
        "The weights are Q4_1 dequantised; training is in bf16 with stochastic rounding, and in"
        " fp32 where the line says so.",
    )
    return Section(f"{budget:,} forward passes", columns, tuple(lines), notes=notes)


def rates_section(rows: Sequence[Row]) -> Section:
    """Every rate that was tried, with its loss; the chosen one stands out by its brackets."""
    lines = []
    for row in rows:
        chosen = row.choice.point[row.rate_key] if row.choice.point else None
        texts = []
        for rate, record in row.tried.items():
            text = f"{float(rate):g}: {last_loss(record)}"
            is_chosen = chosen is not None and float(rate) == float(chosen)
            texts.append(f"[{text}]" if is_chosen else text)
        waiting = len(row.choice.missing)
        lines.append((row.name, ", ".join(texts) or NOTHING, f"{waiting}" if waiting else NOTHING))
    note = (
        "Validation loss at the end of a run of 1,000 passes with seed 0. The least is chosen [in"
        " brackets]; where it is at an end of the rates tried, the next half decade is tried first."
    )
    return Section(
        "Learning rates tried", ("method", "lr: loss", "to do"), tuple(lines), notes=(note,)
    )


def gain_section(rows: Sequence[Row]) -> Section | None:
    """Build the filter's gain along the runs that tried a rate; None where no method has one."""
    shown_at, lines = BUDGETS[min(BUDGETS)], []
    for row in rows:
        for rate, record in row.tried.items():
            gains = [
                (p["num_forwards"], g) for p in record["curve"] if (g := p.get("gain")) is not None
            ]
            if gains:
                at = [_last_within(gains, passes) for passes in shown_at]
                texts = (NOTHING if gain is None else f"{gain:.3f}" for gain in at)
                lines.append((row.name, f"{float(rate):g}", *texts))
    columns = ("method", "lr", *(f"at {passes:,} passes" for passes in shown_at))
    note = (
        "Gain: the slope of a line through 0 of the posterior means over the observations, in the"
        " step before an evaluation. Where it falls, the filter takes more of it for noise."
    )
    return Section("The filter's gain", columns, tuple(lines), notes=(note,)) if lines else None


def course_section(rows: Sequence[Row]) -> Section:
    """Build the course of every run of the short budget: validation loss and accuracy at quarters
    of it, and the test accuracy of the parameters with the best validation accuracy."""
    budget = min(BUDGETS)
    shown_at = [budget * quarter // 4 for quarter in (1, 2, 3, 4)]
    lines = []
    for row in rows:
        chosen = row.choice.point[row.rate_key] if row.choice.point else None
        runs = [(rate, "0", record) for rate, record in row.tried.items()]
        runs += [(chosen, s, r) for s, r in row.runs.items() if chosen and s != "0" and r]
        for rate, seed, record in runs:
            if record["status"] != "ok":
                texts = [record["status"].replace("_", " "), *[NOTHING] * len(shown_at)]
            else:
                texts = [_at(record, passes) for passes in shown_at]
                texts.append(f"{100 * record['test_accuracy']:.1f}")
            lines.append((row.name, f"{float(rate):g}", seed, *texts))
    start = next((_at(r, 0) for row in rows for r in row.tried.values()), NOTHING)
    columns = ("method", "lr", "seed", *(f"at {passes:,}" for passes in shown_at), "test %")
    note = f"Validation loss (accuracy, %) after so many passes; {start} before the first."
    return Section("The course of every run", columns, tuple(lines), notes=(note,))


def _at(record: Record, passes: int) -> str:
    """Loss and accuracy at the last evaluation within so many passes."""
    each = weight(record)
    within = [point for point in record["curve"] if each * point["num_forwards"] <= passes]
    if each * within[-1]["num_forwards"] < NEAR * passes:
        return NOTHING
    loss = within[-1]["validation_loss"]
    return f"{loss:.3f} ({100 * within[-1]['validation_accuracy']:.1f})"


def sections(artefact: Artefact, inputs: Inputs) -> list[Section]:
    """Build all sections of the study's table."""
    del artefact
    shelf = Shelf(inputs.records(SWEEP))
    rows = {budget: rows_of(grid_of(budget), shelf) for budget in BUDGETS}
    inputs.used |= shelf.used
    by_budget = [accuracy_section(budget, of_budget) for budget, of_budget in rows.items()]
    gains = gain_section(rows[max(rows)])
    course = course_section(rows[min(rows)])
    return [*by_budget, rates_section(rows[max(rows)]), course, *([gains] if gains else [])]
