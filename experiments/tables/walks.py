"""Is the low-precision gap the walk? Drift at lr 0, and every method as published against exact restoration."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments.grid import PROFILES, Point, load, read
from experiments.selection import Record, Shelf
from experiments.tables.accuracy import by_model
from experiments.tables.command import Inputs
from experiments.tables.layout import Section
from experiments.tables.names import METHODS, shown

Row = dict[str, Any]
STUDY = Path(__file__).resolve().parents[2] / "results" / "walk"
CURVE = ("dtype", "eps", "walk")
WALKS = ("as-published", "exact")


def points(folder: Path = STUDY) -> list[Row]:
    """One row a point of a curve: model, dtype, eps, walk, step, drift, perplexity; in order of the steps."""
    rows = []
    for path in sorted(folder.glob("*.json")):
        report = json.loads(path.read_text(encoding="utf-8"))
        for curve in report["curves"].values():
            fixed = {"model": report["setting"]["model"], **{name: curve[name] for name in CURVE}}
            rows += [{**fixed, **point} for point in curve["points"]]
    return sorted(rows, key=lambda row: row["step"])


def groups(rows: Iterable[Row], names: Sequence[str]) -> Iterator[tuple[tuple[Any, ...], list[Row]]]:
    """The rows that agree in the named columns, in the order of what they agree in."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in names), []).append(row)
    yield from sorted(found.items())


def drift_section(data: Sequence[Row], model: str) -> Section:
    """The last point of every curve of a model."""
    rows = []
    for (dtype, eps, how), curve in groups((row for row in data if row["model"] == model), CURVE):
        first, last = curve[0], curve[-1]
        rows.append((dtype, f"{eps:g}", how, f"{last['step']:,}", f"{100 * last['drift']:.3g} %",
                     number(first["perplexity"]), number(last["perplexity"])))  # fmt: skip
    columns = ("dtype", "eps", "walk", "steps", "drift", "perplexity at the start", "at the end")
    note = "Drift is |theta - theta_0| / |theta_0| at lr 0. A perplexity beyond every float prints as inf."
    return Section(f"{model} at lr 0", columns, tuple(rows), notes=(note,))


def number(value: float | None) -> str:
    return "inf" if value is None else f"{value:.3g}"


def run_sections(inputs: Inputs) -> Iterator[Section]:
    """A section a profile and model: accuracy and last training loss with either walk."""
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
    rows: dict[tuple[str, str], list[str]] = {}
    for point in runs:
        cells = rows.setdefault((shown(METHODS, point["optimizer"]), point["precision"]), [])
        cells += _cells(shelf.find(point))
    numbers = tuple(f"{what}, {walk}" for walk in WALKS for what in ("test %", "last training loss"))
    note = "The same rate, batches and directions on either side of a row: nothing but the walk differs. One seed."
    return Section(title, ("method", "precision", *numbers), tuple((*key, *cells) for key, cells in rows.items()),
                   notes=(note,))  # fmt: skip


def _cells(record: Record | None) -> list[str]:
    if record is None:
        return ["-", "-"]
    if record["status"] != "ok":
        return [record["status"].replace("_", " "), "-"]
    losses = [point["train_loss"] for point in record["curve"] if point["train_loss"] is not None]
    return [f"{100 * record['test_accuracy']:.2f}", f"{losses[-1]:.4f}" if losses else "-"]


def sections(inputs: Inputs) -> tuple[str, list[Section]]:
    data = points()
    drift = [drift_section(data, model) for model in sorted({row["model"] for row in data})]
    return "The walk: what the perturbation alone does to weights in low precision", [*drift, *run_sections(inputs)]
