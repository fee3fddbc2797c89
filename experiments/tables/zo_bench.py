"""The field's methods side by side (`sweep=zo_bench`): one section for each tuning scheme, ranks at
equal forward passes, and memory."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from bszo.costs import BACKWARD, FORWARD_MODE
from experiments.records.passes import passes_of
from experiments.records.record import Record
from experiments.sweeps.grid import PROFILES, Grid, Point, holds, load, read
from experiments.sweeps.names import METHODS, TASKS, shown
from experiments.sweeps.selection import Choice, Shelf
from experiments.tables.accuracy import AVERAGE, FLOOR, by_model
from experiments.tables.artefacts import Artefact
from experiments.tables.budgets import Budget
from experiments.tables.cells import Cell, Score, cell_of, test_score
from experiments.tables.equal_passes import ranks
from experiments.tables.inputs import Inputs
from experiments.tables.layout import Section
from experiments.tables.memory import FILE, by_scheme, report

NAMES = {
    **METHODS,
    "sgd": "SGD",
    "adamw": "AdamW",
    "forward-grad": "Forward-Grad",
    "mezo": "ZO-SGD (MeZO)",
    "zo-sgd-sign": "ZO-SGD-Sign",
    "zo-sgd-mmt": "ZO-SGD-MMT",
    "zo-sgd-cons": "ZO-SGD-Cons",
    "mezo-adam": "ZO-Adam (MeZO-Adam)",
    "subzero": "SubZero",
}
TASK_NAMES = {**TASKS, "winogrande": "WinoGrande"}
KINDS = {"sgd": "first-order", "adamw": "first-order", "forward-grad": "forward-gradient"}
ZEROTH = "zeroth-order"
# the peak of a run; a resident set is that of a process which has run other methods before
OWN = "cuda_allocated"
OF_RUNS = "MiB: the greatest peak of a run, as the GPU's allocator counts it."
OF_BENCH = (
    "MiB beyond the parameters at the peak of a step, counted by the allocator on OPT-125M's shape"
    " (the last section): these runs' resident sets are those of processes that had run other"
    " methods, too."
)
# (label, task) -> of each seed
Cells = dict[tuple[str, str], tuple[list[Choice], list[Record | None]]]
# scheme -> label -> bytes, as `scripts/bench/memory.py` has left them
Peaks = Mapping[str, Mapping[str, int]]


EQUAL = Budget(
    "at equal forward passes",
    passes_of,
    "At equal passes: validation accuracy after the forward passes of each task's cheapest run, on"
    " a straight line between the evaluations before and after, the mean over the tasks; a backward"
    f" pass counts as {BACKWARD} forward passes, a forward-mode pass as {FORWARD_MODE}. Ties share"
    " a rank. `-`: not run, or nothing that the method could move.",
)


def label(point: Point) -> str:
    """ "ZO-SGD (MeZO), block-wise"."""
    text = shown(NAMES, point["optimizer"])
    if point.get("directions.blocks", "none") != "none":
        text += ", block-wise"
    if point.get("directions.sparsity", "0.0") != "0.0":
        text += f", {float(point['directions.sparsity']):.0%} sparse"
    return text


def sections(artefact: Artefact, inputs: Inputs) -> list[Section]:
    """Build the schemes, the ranks and the memory of every profile and setting that has runs."""
    (sweep,), found = artefact.sweeps, []
    for profile in (name for name in PROFILES if name in read(sweep)["profiles"]):
        grid = load(sweep, profile)
        for setting in grid.settings:
            for name, own in by_model(setting["model"], inputs.records(profile)):
                shelf = Shelf(own, grid.conf)
                made = of_setting(
                    grid, shelf, setting, f"{name}, {setting['precision']} (profile {profile})"
                )
                found += made if shelf.used else []
                inputs.used |= shelf.used
    if not found:
        found = [Section("Not run yet", ("how",), (("make run-zo-bench PROFILE=mini",),))]
    return [*found, *by_scheme()]


def allocated(file: Path = FILE) -> Peaks:
    """Return the bytes beyond the parameters at the peak of a step, by scheme and label; empty
    where none were measured."""
    return {name: scheme["bytes"] for name, scheme in report(file)[0].get("schemes", {}).items()}


def of_setting(
    grid: Grid, shelf: Shelf, setting: Point, where: str, peaks: Peaks | None = None
) -> list[Section]:
    """Build one section for each tuning scheme, then the ranks and the memory over all of them."""
    points = [point for point in grid.points if holds(point, setting)]
    labels, tasks = _in_order(label(p) for p in points), _in_order(p["task"] for p in points)
    kinds = {label(point): KINDS.get(point["optimizer"], ZEROTH) for point in points}
    measured = allocated() if peaks is None else peaks
    made, by_tuning, memory, notes = [], {}, [], set()
    for tuning in _in_order(point["tuning"] for point in points):
        cells = _cells(grid, shelf, [point for point in points if point["tuning"] == tuning])
        equal = _equal(cells, labels, tasks)
        of_those = ranks(equal)
        by_tuning[tuning] = {name: of_those.get(name) for name in labels}
        sizes = {
            name: _mebibytes(_ended(cells, label=name), measured.get(tuning, {}).get(name))
            for name in labels
        }
        made.append(
            _scheme(
                f"{where}: tuning={tuning}", cells, labels, tasks, equal, by_tuning[tuning], sizes
            )
        )
        memory.append((tuning, *_memory(sizes, kinds)))
        notes |= {_words(record) for record in _ended(cells)}
    return [
        *made,
        _ranking(f"{where}: ranks {EQUAL.words}", by_tuning, labels),
        Section(
            f"{where}: memory by kind of method",
            ("tuning", *_kinds()),
            tuple(memory),
            notes=("The least and the most among the methods of a kind.", *sorted(notes)),
        ),
    ]


def _in_order(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def _kinds() -> list[str]:
    return _in_order((*KINDS.values(), ZEROTH))


def _cells(grid: Grid, shelf: Shelf, points: Sequence[Point]) -> Cells:
    cells: Cells = {}
    for point in points:
        choice = shelf.choose(grid, point)
        choices, records = cells.setdefault((label(point), point["task"]), ([], []))
        choices.append(choice)
        records.append(shelf.find(choice.point) if choice.point else None)
    return cells


def _ended(cells: Cells, **wanted: str) -> list[Record]:
    """Return the runs that ended well, of one label or task where it is given."""
    return [
        record
        for (name, task), (_, records) in cells.items()
        for record in records
        if record is not None
        and record["status"] == "ok"
        and wanted.get("label", name) == name
        and wanted.get("task", task) == task
    ]


def _cell(cells: Cells, name: str, task: str, score: Score = test_score) -> Cell:
    return cell_of(*cells.get((name, task), ([], [])), score)


def _mean(cells: Sequence[Cell]) -> float | None:
    """Return the mean over the tasks where every one has a number."""
    numbers = [cell.number for cell in cells if cell.number is not None]
    return statistics.fmean(numbers) if len(numbers) == len(cells) else None


def _equal(cells: Cells, labels: Sequence[str], tasks: Sequence[str]) -> dict[str, float]:
    """Return the mean validation accuracy at equal forward passes by label, where every task has
    one."""
    scores = {task: EQUAL.scoring(_ended(cells, task=task)) for task in tasks}
    means = {
        name: _mean([_cell(cells, name, task, scores[task]) for task in tasks]) for name in labels
    }
    return {name: mean for name, mean in means.items() if mean is not None}


def _scheme(
    title: str,
    cells: Cells,
    labels: Sequence[str],
    tasks: Sequence[str],
    equal: Mapping[str, float],
    ranks: Mapping[str, int | None],
    sizes: Mapping[str, float | None],
) -> Section:
    """Build the section of one tuning scheme: the accuracies before training, then one row for each
    method."""
    start = [
        (
            statistics.fmean(100 * r["zero_shot_accuracy"] for r in _ended(cells, task=task))
            if _ended(cells, task=task)
            else None
        )
        for task in tasks
    ]
    known = [value for value in start if value is not None]
    mean = statistics.fmean(known) if len(known) == len(tasks) else None
    rows = [(FLOOR, *(_text(value) for value in (*start, mean)), *["-"] * 6)]
    for name in labels:
        row = [_cell(cells, name, task) for task in tasks]
        runs = _ended(cells, label=name)
        costs = (
            _most(runs, "num_forwards", "{:,.0f}"),
            _most(runs, "num_backwards", "{:,.0f}"),
            _text(sizes[name], "{:,.1f}"),
            _typical(runs),
        )
        rows.append(
            (
                name,
                *(cell.text for cell in row),
                _text(_mean(row)),
                *costs,
                _text(equal.get(name)),
                _text(ranks[name], "{}"),
            )
        )
    columns = (
        "method",
        *(shown(TASK_NAMES, task) for task in tasks),
        AVERAGE,
        "forward passes",
        "backward passes",
        "MiB",
        "seconds a step",
        "at equal passes",
        "rank",
    )
    bold = frozenset(
        (1 + i, len(columns) - 1) for i, name in enumerate(labels) if ranks[name] in (1, 2)
    )
    trained = {f"{record['model']['num_parameters']:,}" for record in _ended(cells)}
    notes = (
        (
            "Tasks: test accuracy (%) of the whole run. Seconds: each run's median step, the mean"
            " over the runs. Passes: the most of any run. Trained"
            f" parameters: {', '.join(sorted(trained)) or '-'}."
        ),
        EQUAL.note,
    )
    return Section(
        title,
        columns,
        tuple(rows),
        bold,
        (*notes, *sorted({_words(record) for record in _ended(cells)})),
    )


def _text(value: float | None, form: str = "{:.2f}") -> str:
    return "-" if value is None else form.format(value)


def _most(runs: Sequence[Record], key: str, form: str) -> str:
    return _text(max((r[key] for r in runs if r[key] is not None), default=None), form)


def _typical(runs: Sequence[Record]) -> str:
    steps = [record["step_ms"] / 1e3 for record in runs if record["step_ms"] is not None]
    return _text(statistics.fmean(steps) if steps else None, "{:.4f}")


def _ranking(
    title: str, ranks: Mapping[str, Mapping[str, int | None]], labels: Sequence[str]
) -> Section:
    """Sort the methods by their mean rank over the schemes; those without a rank in every scheme
    come last."""
    means: dict[str, float] = {}
    for name in labels:
        known = [rank for rank in (ranks[tuning][name] for tuning in ranks) if rank is not None]
        if len(known) == len(ranks):
            means[name] = statistics.fmean(known)
    rows = [
        (name, *(_text(ranks[tuning][name], "{}") for tuning in ranks), _text(means.get(name)))
        for name in sorted(labels, key=lambda name: means.get(name, float("inf")))
    ]
    return Section(title, ("method", *ranks, "mean"), tuple(rows))


def _mebibytes(runs: Sequence[Record], measured: int | None) -> float | None:
    """Return the greatest peak of the runs; where they have none of their own, what a step was
    measured to take."""
    own = [record["peak_memory_bytes"] for record in runs if record["peak_memory_kind"] == OWN]
    found = max((size for size in own if size is not None), default=measured)
    return None if found is None or not runs else found / 2**20


def _words(record: Record) -> str:
    return OF_RUNS if record["peak_memory_kind"] == OWN else OF_BENCH


def _memory(sizes: Mapping[str, float | None], kinds: Mapping[str, str]) -> tuple[str, ...]:
    """Return the MiB of each kind of method, "480.0 - 512.0"."""
    found = []
    for kind in _kinds():
        own = [size for name, size in sizes.items() if size is not None and kinds[name] == kind]
        ends = [f"{value:,.1f}" for value in (min(own, default=0), max(own, default=0))]
        found.append(" - ".join(_in_order(ends)) if own else "-")
    return tuple(found)
