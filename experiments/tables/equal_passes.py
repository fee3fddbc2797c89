"""Tables of methods at equal forward passes (`sweep=later`, `sweep=each`): accuracy, ranks, and the
rates tried."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from experiments.records.record import Record
from experiments.sweeps.grid import PROFILES, Grid, Point, holds, load, rate_key, read
from experiments.sweeps.names import EVERY_METHOD, TASKS, shown
from experiments.sweeps.selection import Choice, Shelf
from experiments.tables.accuracy import AVERAGE, FLOOR, by_model
from experiments.tables.artefacts import Artefact
from experiments.tables.cells import Cell, cell_of
from experiments.tables.inputs import Inputs
from experiments.tables.layout import Section, not_shown
from experiments.tables.paired import difference
from experiments.tables.until import until_section

BASELINE = "MeZO"
NOTHING = "-"
Run = tuple[str, str]  # task, seed


@dataclass(frozen=True)
class Row:
    """A method's runs.

    Attributes:
        name: of the method, with what distinguishes it from another of the same name.
        choices: (task, seed) -> the choice of its rate.
        records: (task, seed) -> its record, None where it is not run yet.
        rates: rate -> validation accuracy of the run that tried it, None where it failed.
        chosen: the rate of its runs, as text; None where there is none yet.
    """

    name: str
    choices: Mapping[Run, Choice]
    records: Mapping[Run, Record | None]
    rates: Mapping[str, float | None]
    chosen: str | None

    def cell(self, task: str) -> Cell:
        """The seeds of one task."""
        runs = [run for run in self.choices if run[0] == task]
        return cell_of([self.choices[run] for run in runs], [self.records[run] for run in runs])

    @property
    def well(self) -> dict[Run, Record]:
        """The runs that ended with status ok."""
        return {run: r for run, r in self.records.items() if r is not None and r["status"] == "ok"}

    def score(self, run: Run) -> float:
        """Test accuracy of one of the runs that ended well, in per cent."""
        return 100 * self.well[run]["test_accuracy"]


def label(point: Point) -> str:
    """ "MeZO, P4", "SubZero+, 9 directions", "BSZO, own directions, k = 8, mean"."""
    text = shown(EVERY_METHOD, point["optimizer"])
    if estimator := point.get("optimizer.estimator"):
        text += f", {estimator.capitalize()}"
    if count := point.get("optimizer.num_directions"):
        text += f", {count} directions"
    for key in ("k", "rank"):
        if value := point.get(f"optimizer.{key}"):
            text += f", {key} = {value}"
    match point.get("optimizer.update"):
        case None:
            return text
        case "norm":
            return f"{text}'s direction, length alone"
        case update:
            return f"{text}, {update}"


def rows_of(grid: Grid, shelf: Shelf, setting: Point) -> list[Row]:
    """A row a method, in the order of the sweep's file.

    Raises:
        ValueError: a method's runs have different rates, which a row has one place for.
    """
    groups: dict[str, list[Point]] = {}
    for point in grid.points:
        if holds(point, setting):
            groups.setdefault(label(point), []).append(point)
    return [_row(grid, shelf, name, points) for name, points in groups.items()]


def _row(grid: Grid, shelf: Shelf, name: str, points: Sequence[Point]) -> Row:
    key = rate_key(points[0]["optimizer"], grid.conf)
    choices = {(p["task"], p["seed"]): shelf.choose(grid, p) for p in points}
    chosen = {choice.point[key] for choice in choices.values() if choice.point is not None}
    if len(chosen) > 1:
        raise ValueError(f"sweep={grid.name}: {name} has the rates {', '.join(sorted(chosen))}")
    records = {
        run: shelf.find(choice.point) if choice.point else None for run, choice in choices.items()
    }
    rates: dict[str, float | None] = {}
    for choice in choices.values():
        rates |= choice.validation
    return Row(name, choices, records, rates, next(iter(chosen), None))


def ranks(numbers: Mapping[str, float | None]) -> dict[str, int]:
    """Name -> 1 + how many are better; ties share a rank, and who has no number has none."""
    # means of the same accuracies may differ in their last bits
    there = {name: round(value, 9) for name, value in numbers.items() if value is not None}
    return {
        name: 1 + sum(other > value for other in there.values()) for name, value in there.items()
    }


def against(row: Row, other: Row) -> str:
    """Test accuracy minus the other's over the runs that both have: mean, p of a paired t-test."""
    runs = [run for run in row.well if run in other.well]
    if row is other or not runs:
        return NOTHING
    return difference(*([r.score(run) for run in runs] for r in (row, other)))


def spread(row: Row, tasks: Sequence[str]) -> float | None:
    """Sample deviation over the seeds of the mean over the tasks; of whole seeds, two at least."""
    seeds = dict.fromkeys(seed for _, seed in row.choices)
    whole = [seed for seed in seeds if all((task, seed) in row.well for task in tasks)]
    means = [statistics.fmean(row.score((task, seed)) for task in tasks) for seed in whole]
    return statistics.stdev(means) if len(means) > 1 else None


def accuracy_section(title: str, rows: Sequence[Row], tasks: Sequence[str]) -> Section:
    """Build the accuracies, a line a method; the best rank is bold."""
    cells = {row.name: [row.cell(task) for task in tasks] for row in rows}
    means = {name: _mean([cell.number for cell in own]) for name, own in cells.items()}
    overall = ranks(means)
    by_task = [
        ranks({name: own[i].number for name, own in cells.items()}) for i in range(len(tasks))
    ]
    mean_ranks = {name: _mean([found.get(name) for found in by_task]) for name in cells}
    baseline = next((row for row in rows if row.name == BASELINE), None)
    lines = [_before_training(rows, tasks)]
    for row in rows:
        well = list(row.well.values())
        lines.append(
            (
                row.name,
                f"{float(row.chosen):g}" if row.chosen else NOTHING,
                *(cell.text for cell in cells[row.name]),
                _text(means[row.name]),
                _text(spread(row, tasks)),
                against(row, baseline) if baseline else NOTHING,
                _text(mean_ranks[row.name]),
                _text(overall.get(row.name), "{}"),
                _text(max((r["num_forwards"] for r in well), default=None), "{:,}"),
                _text(_median([r["train_seconds"] for r in well]), "{:.1f}"),
            )
        )
    columns = ("method", "lr", *(shown(TASKS, task) for task in tasks), AVERAGE, "spread")
    columns += (f"minus {BASELINE}", "mean rank", "rank", "forward passes", "seconds")
    place = columns.index("rank")
    bold = frozenset((i, place) for i, line in enumerate(lines) if line[place] == "1")
    return Section(title, columns, tuple(lines), bold, notes=(NOTE, COSTS))


NOTE = (
    "Test accuracy of the parameters with the best validation accuracy within the same number of"
    " forward passes: mean (sample deviation; runs) over the seeds. Spread: the sample deviation"
    " over the seeds of the mean over the tasks. The difference is over all pairs of task and seed,"
    " with the p of a paired t-test; the pairs of one task are not independent, so that p is too"
    " small rather than too great. Ranks: of the mean over the seeds on each task, averaged; and of"
    f" {AVERAGE}. Ties share a rank."
)
COSTS = (
    "Forward passes: the most of any run; no run takes a step that would exceed the budget."
    " Seconds: the median run's training, of runs that shared the machine with others."
)


def _before_training(rows: Sequence[Row], tasks: Sequence[str]) -> tuple[str, ...]:
    start = [
        _mean(
            [
                100 * r["zero_shot_accuracy"]
                for row in rows
                for run, r in row.well.items()
                if run[0] == task
            ]
        )
        for task in tasks
    ]
    return (FLOOR, NOTHING, *map(_text, (*start, _mean(start))), *[NOTHING] * 6)


def rates_section(title: str, rows: Sequence[Row]) -> Section:
    """Every rate that was tried, with its accuracy; the chosen one stands in brackets."""
    return Section(
        title,
        ("method", "lr: validation %", "to do"),
        tuple(
            (
                row.name,
                ", ".join(_tried(row)) or NOTHING,
                _text(len(_waiting(row)) or None, "{}"),
            )
            for row in rows
        ),
        notes=(
            "Validation accuracy of the runs that chose the rate, with one seed and on one task."
            " The best is chosen [in brackets], of equals the smaller; where it is at an end of"
            " those tried, the next half decade is tried first.",
        ),
    )


def _waiting(row: Row) -> set[str]:
    """The runs that the choice of its rate waits for."""
    return {str(run) for choice in row.choices.values() for run in choice.missing}


def _tried(row: Row) -> Iterator[str]:
    for rate in sorted(row.rates, key=float):
        score = row.rates[rate]
        text = f"{float(rate):g}: {'failed' if score is None else f'{100 * score:.1f}'}"
        yield f"[{text}]" if rate == row.chosen else text


def _mean(numbers: Sequence[float | None]) -> float | None:
    """The mean where every one is a number."""
    there = [number for number in numbers if number is not None]
    return statistics.fmean(there) if there and len(there) == len(numbers) else None


def _median(numbers: Sequence[float]) -> float | None:
    return statistics.median(numbers) if numbers else None


def _text(value: float | None, form: str = "{:.2f}") -> str:
    return NOTHING if value is None else form.format(value)


def sections(artefact: Artefact, inputs: Inputs) -> list[Section]:
    """Build the accuracies, the passes to one loss and the rates of every profile and setting that
    has runs."""
    (sweep,), found = artefact.sweeps, []
    for profile in (name for name in PROFILES if name in read(sweep)["profiles"]):
        grid = load(sweep, profile)
        tasks = list(dict.fromkeys(point["task"] for point in grid.points))
        for setting in grid.settings:
            for name, own in by_model(setting["model"], inputs.records(profile)):
                shelf = Shelf(own, grid.conf)
                rows = rows_of(grid, shelf, setting)
                where = f"{name}, {setting['precision']} (profile {profile})"
                if shelf.used:
                    section = accuracy_section(where, rows, tasks)
                    notes = (*section.notes, *not_shown(shelf.doubles, shelf.outdated))
                    found.append(replace(section, notes=notes))
                    by_name = [(row.name, row.records) for row in rows]
                    title = f"{where}: forward passes to the same loss"
                    if (section := until_section(title, BASELINE, by_name)) is not None:
                        found.append(section)
                    found.append(rates_section(f"{where}: learning rates", rows))
                inputs.used |= shelf.used
    return found or [Section("Not run yet", ("how",), ((f"make run-{artefact.name}",),))]
