"""Walks in low precision: drift at lr 0, and every method as published beside exact restoration."""

import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments import RESULTS
from experiments.records.record import Record
from experiments.records.store import SINGLE, left_out
from experiments.sweeps.grid import PROFILES, Point, load, read
from experiments.sweeps.names import METHODS, shown
from experiments.sweeps.paper import PaperError, paper_table
from experiments.sweeps.selection import Shelf
from experiments.tables.accuracy import by_model
from experiments.tables.artefacts import Artefact
from experiments.tables.cells import Cell, in_points, last
from experiments.tables.inputs import Inputs
from experiments.tables.layout import Section
from experiments.tables.sources import MEASURED
from experiments.tables.walk.beside import alike, beside_section

Row = dict[str, Any]
STUDY, REFERENCE = MEASURED / "walk", RESULTS / "reference"
# of a record's curve; one that was written earlier has not the second
LOSSES = ("train_loss", "validation_loss")
NUMBERS = ("test %", "last training loss", "last validation loss")
GAIN = "exact minus as published"
CURVE, POINT = ("dtype", "eps", "walk"), ("step", "drift", "perplexity")
WALKS = ("as-published", "exact")


def points(folder: Path = STUDY) -> tuple[list[Row], list[str]]:
    """Return one row for each point of a curve, in the order of the steps, and one line for each
    file that cannot be used.

    A row has model, text, dtype, eps, walk, step, drift and perplexity. Of two curves of one kind
    the longer one counts.
    """
    longest: dict[tuple[Any, ...], list[Row]] = {}
    problems = []
    for path in sorted(folder.glob("*.json")):
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
            setting = report["setting"]
            for curve in report["curves"].values():
                fixed = {
                    "model": setting["model"],
                    "text": setting.get("text", "-"),
                    **{n: curve[n] for n in CURVE},
                }
                rows = [
                    {**fixed, **{name: point[name] for name in POINT}} for point in curve["points"]
                ]
                kind = tuple(fixed[name] for name in ("model", *CURVE))
                longest[kind] = max(longest.get(kind, []), rows, key=len)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            problems.append(
                f"{path.name}: not a report of scripts.study.drift ({type(error).__name__}:"
                f" {error})"
            )
    return (
        sorted((row for rows in longest.values() for row in rows), key=lambda row: row["step"]),
        problems,
    )


def reference(model: str) -> list[dict[str, str]]:
    """Return what was measured of a model before this suite.

    Raises:
        PaperError: the file cannot be used.
    """
    columns = ("model", *CURVE, "steps", "drift_percent", "perplexity_at_start", "perplexity")
    rows = paper_table("drift", columns, ("steps",), REFERENCE)
    return [row for row in rows if row["model"] == model]


def reference_row(
    found: Sequence[dict[str, str]], dtype: str, eps: float, how: str, step: int
) -> dict[str, str]:
    """Return the reference's row for a point, empty where there is none. A row without an eps holds
    for every eps."""
    wanted = {"dtype": dtype, "walk": how, "steps": str(step)}
    fitting = [
        row
        for row in found
        if all(row[key] == value for key, value in wanted.items())
        and (not row["eps"] or float(row["eps"]) == eps)
    ]
    return fitting[0] if fitting else {}


def groups(
    rows: Iterable[Row], names: Sequence[str]
) -> Iterator[tuple[tuple[Any, ...], list[Row]]]:
    """Group the rows that agree in the named columns, sorted by their values there."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in names), []).append(row)
    yield from sorted(found.items())


def drift_section(data: Sequence[Row], model: str) -> Section:
    """List the last point of every curve of a model, beside what was measured before this suite."""
    rows, problems = [], []
    try:
        theirs = reference(model)
    except PaperError as error:
        theirs, problems = [], [str(error)]
    own = [row for row in data if row["model"] == model]
    scored = any(row["perplexity"] is not None for row in own)
    for (dtype, eps, how), curve in groups(own, CURVE):
        for point in curve[1:]:
            other = reference_row(theirs, dtype, eps, how, point["step"])
            if point is not curve[-1] and not other:
                continue
            rows.append(
                (
                    dtype,
                    f"{eps:g}",
                    how,
                    f"{point['step']:,}",
                    f"{100 * point['drift']:.3g} %",
                    f"{other['drift_percent']} %" if other.get("drift_percent") else "-",
                    *(
                        _scores(curve[0]["perplexity"], point["perplexity"], other)
                        if scored
                        else ()
                    ),
                )
            )
    columns = ("dtype", "eps", "walk", "steps", "drift", "reference")
    columns += ("perplexity at the start", "then", "then / start", "reference") if scored else ()
    notes = [
        "Drift is |theta - theta_0| / |theta_0|. Reference: measured before this suite, on other"
        " directions (`results/reference`)."
    ]
    if scored:
        text = "text that the model wrote itself" if own[0]["text"] == "its own" else own[0]["text"]
        notes.append(
            f"Perplexity of {text}; the reference's is that of a story, so that ratios to the start"
            " compare, not perplexities. One beyond every float prints as inf."
        )
    return Section(f"{model} at lr 0", columns, tuple(rows), notes=(*notes, *left_out(problems)))


def _scores(
    start: float | None, then: float | None, other: Mapping[str, str]
) -> tuple[str, str, str, str]:
    """Return the perplexities and the ratio of the second to the first, ours and the
    reference's."""
    times = "inf" if then is None or not start else f"{then / start:.3g}"
    theirs = (
        float(other["perplexity"]) / float(other["perplexity_at_start"])
        if other.get("perplexity")
        else None
    )
    return number(start), number(then), times, "-" if theirs is None else f"{theirs:.3g}"


def number(value: float | None) -> str:
    return "inf" if value is None else f"{value:.3g}"


def run_sections(inputs: Inputs) -> Iterator[Section]:
    """Build one section for each profile and model: accuracy and last losses with either walk, over
    the seeds."""
    for profile in (name for name in PROFILES if name in read("walk")["profiles"]):
        grid = load("walk", profile)
        for model in dict.fromkeys(point["model"] for point in grid.points):
            for name, records in by_model(model, inputs.records(profile)):
                shelf = Shelf(records)
                made = _section(f"{name} on SST-2 (profile {profile})", grid.points, shelf)
                inputs.used |= shelf.used
                if shelf.used:
                    yield made


def _section(title: str, runs: Sequence[Point], shelf: Shelf) -> Section:
    rows: dict[tuple[str, str, str], dict[str, list[Record | None]]] = {}
    for point in runs:
        row = rows.setdefault(
            (shown(METHODS, point["optimizer"]), point["precision"], point["optimizer.eps"]), {}
        )
        row.setdefault(point["optimizer.perturbation"], []).append(shelf.find(point))
    columns = (
        "method",
        "precision",
        "eps",
        *(f"{what}, {walk}" for walk in WALKS for what in NUMBERS),
        GAIN,
    )
    cells = tuple(
        (*key, *(cell for walk in WALKS for cell in _cells(row[walk])), _gain(row).text)
        for key, row in rows.items()
    )
    seeds = max(len(records) for row in rows.values() for records in row.values())
    over = (
        "One seed."
        if seeds == 1
        else (
            f"Mean (sample deviation; runs) over {seeds} seeds, the median for losses; the"
            " difference over the seeds that ended well on both sides."
        )
    )
    note = (
        "The same rate, batches and directions on either side of a row: nothing but the walk"
        " differs."
    )
    notes = [f"{note} {over}"]
    kept = [
        last(record, LOSSES[1])
        for row in rows.values()
        for own in row.values()
        for record in own
        if record and record["status"] == "ok"
    ]
    if None in kept:
        notes.append(
            f"Of {kept.count(None)} runs the record is older than the validation loss in it; `-`"
            " there."
        )
    return Section(title, columns, cells, notes=tuple(notes))


def _cells(records: Sequence[Record | None]) -> list[str]:
    """Return accuracy and the medians of the last losses over the seeds of one walk; the losses
    have no number where a run failed."""
    there = [record for record in records if record is not None]
    failures = tuple(record["status"] for record in there if record["status"] != "ok")
    accuracy = Cell(
        tuple(score for record in there if (score := _score(record)) is not None),
        len(records),
        failures,
    )
    losses = [[last(record, key) for record in there] for key in LOSSES]
    return [
        accuracy.text,
        *(_median(found) if accuracy.number is not None else "-" for found in losses),
    ]


def _median(losses: Sequence[float | None]) -> str:
    """Return the median where all records have the loss: an earlier record may have no validation
    loss."""
    return (
        "-"
        if None in losses
        else f"{statistics.median(loss for loss in losses if loss is not None):.4f}"
    )


def _gain(row: Mapping[str, Sequence[Record | None]]) -> Cell:
    """Return test accuracy with exact restoration minus that as published, seed by seed."""
    pairs = zip(*([_score(record) for record in row[walk]] for walk in WALKS), strict=True)
    return Cell(
        tuple(exact - own for own, exact in pairs if own is not None and exact is not None),
        len(row[WALKS[0]]),
    )


def _score(record: Record | None) -> float | None:
    return in_points(record) if record is not None and record["status"] == "ok" else None


def _gridded(inputs: Inputs) -> Iterator[Record]:
    """The runs that the sections of accuracy show."""
    for profile in read("walk")["profiles"]:
        for record in inputs.records(profile):
            if record["signature"] in inputs.used:
                yield record


def sections(artefact: Artefact, inputs: Inputs) -> list[Section]:
    data, problems = points()
    found = [drift_section(data, model) for model in sorted({row["model"] for row in data})]
    found += run_sections(inputs)
    single = alike(inputs.records(SINGLE), _gridded(inputs))
    inputs.used |= {record["signature"] for record in single}
    beside = beside_section(single)
    found += [beside] if beside else []
    found = found or [
        Section("Not run yet", ("how",), (("make run-figure_drift",), ("make run-table_walk",)))
    ]
    found[0] = replace(found[0], notes=(*found[0].notes, *left_out(problems)))
    return found
