"""Blocks of accuracies: the paper's, the official, the corrected, and their difference, one block
for each model and precision."""

import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from experiments.records.record import Record
from experiments.records.store import left_out
from experiments.sweeps.grid import Grid, Point, holds
from experiments.sweeps.names import MODELS, TASKS, shown
from experiments.sweeps.selection import Choice, Shelf
from experiments.tables.cells import Cell, Score, cell_of, test_score, zero_shot
from experiments.tables.layout import Section

Label = Callable[[Point], str]
Published = Callable[[Point], str | None]
Scoring = Callable[[Sequence[Record]], Score]  # all runs of a task -> how each is scored
Row = tuple[str, str]  # label, source

AVERAGE, FLOOR = "AVG", "before training"
UNFINISHED = "‡ Of some of the cells that it is computed from not all runs are there yet."


@dataclass
class Block:
    """The rows of one setting.

    Attributes:
        title: the setting in words.
        tasks: the columns.
        texts: what each cell prints, by (label, source) and by task.
        numbers: the value of each cell that has one, by the same keys.
        floors: fidelity -> task -> the score before training, in per cent.
        notes: what a reader must know.
        used: signatures of the records that are shown.
        doubles: signatures of the records that a later run of the same configuration replaces.
        outdated: signatures of those that are left out, for they ran on other rows or weights.
    """

    title: str
    tasks: list[str]
    texts: dict[Row, dict[str, str]] = field(default_factory=dict)
    numbers: dict[Row, dict[str, float]] = field(default_factory=dict)
    floors: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    doubles: set[str] = field(default_factory=set)
    outdated: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Kind:
    """What an artefact's table shows.

    Attributes:
        label: a row's name, from one of its points.
        published: the paper's text for a point's cell (task AVG: its average); None where it prints
            none.
        scoring: how a task's runs are scored.
        untrained: the score of a run before its first step.
        notes: what stands under every block.
        problems: what is wrong with the paper's file, where it is left out.
    """

    label: Label
    published: Published
    scoring: Scoring = lambda records: test_score
    untrained: Score = zero_shot
    notes: tuple[str, ...] = ()
    problems: Sequence[str] = ()


def blocks(grid: Grid, records: Sequence[Record], kind: Kind) -> Iterator[Block]:
    """Yield one block for each setting; `model=local` stands for every local model that has
    records."""
    for setting in grid.settings:
        for name, own in by_model(setting["model"], records):
            yield _block(grid, Shelf(own, grid.conf), setting, name, kind)


def by_model(model: str, records: Sequence[Record]) -> list[tuple[str, Sequence[Record]]]:
    """Pair each model's name with its records. `local` stands for every local model that has
    records; their contents tell them apart."""
    if model != "local":
        return [(shown(MODELS, model), records)]
    own: dict[str, list[Record]] = {}
    for record in records:
        if record["config"]["model"].get("name") is None:
            own.setdefault(str(record["config"]["model"].get("path")), []).append(record)
    names = [found[0]["choices"]["model"] for found in own.values()]
    shelves = [
        (name if names.count(name) == 1 else path, own[path])
        for path, name in zip(own, names, strict=True)
    ]
    return sorted(shelves, key=lambda shelf: shelf[0])


def _block(grid: Grid, shelf: Shelf, setting: Point, name: str, kind: Kind) -> Block:
    points = [point for point in grid.points if holds(point, setting)]
    tasks = list(dict.fromkeys(point["task"] for point in points))
    block = Block(
        f"{name}, {setting['precision']} (profile {grid.profile})",
        [shown(TASKS, task) for task in tasks],
    )
    block.notes += kind.notes
    if grid.profile == "paper":
        block.notes += left_out(kind.problems)
        _print_paper(block, points, kind)
    for task in tasks:
        _print_runs(block, [point for point in points if point["task"] == task], grid, shelf, kind)
    for row in list(block.texts):
        _average(block, row)
    _subtract(
        block, *(("official", "paper") if grid.profile == "paper" else ("corrected", "official"))
    )
    if grid.profile == "paper":
        _like_for_like(block)
    block.used, block.doubles, block.outdated = shelf.used, shelf.doubles, shelf.outdated
    return block


def _print_paper(block: Block, points: Sequence[Point], kind: Kind) -> None:
    for point in points:
        for task in (point["task"], AVERAGE):
            text = kind.published({**point, "task": task})
            if text is not None:
                _put(
                    block,
                    (kind.label(point), "paper"),
                    shown(TASKS, task),
                    text,
                    _leading_number(text),
                )


def _leading_number(text: str) -> float | None:
    found = re.match(r"-?\d+(\.\d+)?", text)
    return float(found[0]) if found else None


def _print_runs(
    block: Block, points: Sequence[Point], grid: Grid, shelf: Shelf, kind: Kind
) -> None:
    """Fill in the cells of one task, for every label and fidelity."""
    cells: dict[Row, tuple[list[Choice], list[Record | None]]] = {}
    for point in points:
        choice = shelf.choose(grid, point)
        choices, records = cells.setdefault((kind.label(point), point["fidelity"]), ([], []))
        choices.append(choice)
        records.append(shelf.find(choice.point) if choice.point else None)
    ended = [
        r for _, records in cells.values() for r in records if r is not None and r["status"] == "ok"
    ]
    for fidelity in dict.fromkeys(fidelity for _, fidelity in cells):
        same = (r for (_, of), (_, runs) in cells.items() if of == fidelity for r in runs if r)
        starts = [kind.untrained(r) for r in same if r["status"] == "ok"]
        if found := [100 * start for start in starts if start is not None]:
            task = shown(TASKS, points[0]["task"])
            block.floors.setdefault(fidelity, {})[task] = statistics.fmean(found)
    score = kind.scoring(ended)
    for row, (choices, records) in cells.items():
        cell: Cell = cell_of(choices, records, score)
        _put(block, row, shown(TASKS, points[0]["task"]), cell.text, cell.number)


def _put(block: Block, row: Row, column: str, text: str, number: float | None) -> None:
    block.texts.setdefault(row, {})[column] = text
    if number is not None:
        block.numbers.setdefault(row, {})[column] = number


def _average(block: Block, row: Row) -> None:
    """Add the mean over the tasks where every task has a number; the paper's average stays as it is
    printed."""
    numbers = block.numbers.get(row, {})
    if AVERAGE not in block.texts[row]:
        whole = all(task in numbers for task in block.tasks)
        mean = statistics.fmean(numbers[task] for task in block.tasks) if whole else None
        mark = _mark(block, AVERAGE, row) if whole else ""
        _put(block, row, AVERAGE, "-" if mean is None else f"{mean:.2f}{mark}", mean)


def _mark(block: Block, column: str, *rows: Row) -> str:
    """The sign of what is computed from cells of which runs are missing; a note says what it
    means."""
    tasks = block.tasks if column == AVERAGE else [column]
    cells = [block.texts.get(row, {}).get(task, "") for row in rows for task in tasks]
    if not any(re.search(r"\d of \d", cell) for cell in cells):
        return ""
    if UNFINISHED not in block.notes:
        block.notes.append(UNFINISHED)
    return " ‡"


def _subtract(block: Block, left: str, right: str) -> None:
    """Add a row of differences for every label. Averages are subtracted only where they are over
    the same tasks."""
    for label in dict.fromkeys(label for label, _ in block.texts):
        of, to = block.numbers.get((label, left), {}), block.numbers.get((label, right), {})
        if not of.keys() & to.keys():
            continue
        whole = all(task in of and task in to for task in block.tasks)
        for column in (*block.tasks, AVERAGE):
            there = column in of and column in to and (column != AVERAGE or whole)
            mark = _mark(block, column, (label, left), (label, right)) if there else ""
            block.texts.setdefault((label, f"{left} - {right}"), {})[column] = (
                f"{of[column] - to[column]:+.2f}{mark}" if there else "-"
            )


def _like_for_like(block: Block) -> None:
    """Add a note where the paper's averages are over different tasks."""
    paper = {
        label: numbers for (label, source), numbers in block.numbers.items() if source == "paper"
    }
    common = [task for task in block.tasks if all(task in numbers for numbers in paper.values())]
    averaged = [label for label, numbers in paper.items() if AVERAGE in numbers]
    if common and averaged and len(common) < len(block.tasks):
        over = [
            label for label in averaged if not all(task in paper[label] for task in block.tasks)
        ]
        for label in over:
            block.texts[label, "paper"][AVERAGE] += " †"
        means = ", ".join(
            f"{label} {statistics.fmean(paper[label][t] for t in common):.2f}" for label in paper
        )
        block.notes.append(
            f"† The paper's averages of {' and '.join(over)} leave out the tasks that collapsed;"
            f" the others' do not. Over the same {len(common)} tasks ({', '.join(common)}):"
            f" {means}."
        )


def section(block: Block) -> Section:
    """Turn a block into text: the scores before training, then one row for each label and source,
    the best two numbers of each source in bold."""
    columns = (*block.tasks, AVERAGE) if len(block.tasks) > 1 else tuple(block.tasks)
    keys = sorted(
        block.texts,
        key=lambda key: list(dict.fromkeys(label for label, _ in block.texts)).index(key[0]),
    )
    floors = tuple(
        (FLOOR, fidelity, *(_floor(block, scores, c) for c in columns))
        for fidelity, scores in block.floors.items()
    )
    rows = tuple(
        (label, source, *(block.texts[label, source].get(c, "-") for c in columns))
        for label, source in keys
    )
    bold = frozenset(
        (len(floors) + i, 2 + j)
        for i, key in enumerate(keys)
        for j, c in enumerate(columns)
        if _leads(block, key, c)
    )
    heads = ("method", "numbers", *columns)
    return Section(block.title, heads, floors + rows, bold, tuple(block.notes))


def _floor(block: Block, scores: Mapping[str, float], column: str) -> str:
    """The score before training of a task, or the mean of all where every task has one."""
    whole = column == AVERAGE and all(task in scores for task in block.tasks)
    score = statistics.fmean(scores.values()) if whole else scores.get(column)
    return "-" if score is None else f"{score:.2f}"


def _leads(block: Block, key: Row, column: str) -> bool:
    """Return True for the best two numbers of a column, ties included. Rows of one source compete,
    and only where there are at least three."""
    rivals = [
        numbers[column]
        for (_, source), numbers in block.numbers.items()
        if source == key[1] and column in numbers
    ]
    own = block.numbers.get(key, {}).get(column)
    return own is not None and len(rivals) > 2 and own >= sorted(rivals)[-2]
