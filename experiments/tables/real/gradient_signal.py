"""Section of the real study's table: how much of a batch's gradient is that of all rows."""

import json
from pathlib import Path
from typing import Any

from experiments.tables.layout import Section
from experiments.tables.sources import MEASURED, MeasurementError

FILE = MEASURED / "gradient_signal.json"
ALL = "all"
NOTE = (
    "|grad L|^2 of all rows (standard error) of the mean |grad L_b|^2 of a batch of {batch}, over"
    " {batches} batches: a zeroth-order step sees its batch's slope, of whose square this share is"
    " worth following. Before training and after a run of MeZO"
    " (`python -m scripts.study.gradient_signal`); embeddings are the output layer too. A is"
    " B |grad L_b|^2 / mean |grad l_e|^2 for a batch b of B rows e: a step along directions of each"
    " row's own has so many times less variance. The mean over the rows, taken as drawn one by one,"
    " is |grad L|^2 + B (mean |grad L_b|^2 - |grad L|^2)."
)


def signal_section(file: Path) -> Section:
    """Build a line a kind of parameter, the largest gradients of batches first, and a column a
    point at which it was measured.

    Raises:
        MeasurementError: the file is not what the study writes.
    """
    try:
        facts: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        points, note = facts["points"], NOTE.format(**facts)
        first = points[0]["kinds"]
        order = sorted(first, key=lambda kind: (kind != ALL, -first[kind]["batch"]))
        lines = tuple(
            (
                kind,
                f"{first[kind]['elements']:,}",
                *(_cell(p["kinds"][kind]) for p in points),
                *(f"{agreement(p['kinds'][kind], facts['batch']):.1f}" for p in points),
            )
            for kind in order
        )
        after = [f"after {p['steps']} steps" for p in points]
        columns = ("parameters", "elements", *after, *(f"A {when}" for when in after))
    except (ValueError, LookupError, TypeError, ArithmeticError) as error:
        raise MeasurementError(
            f"{file.name}: not a report of scripts.study.gradient_signal"
            f" ({type(error).__name__}: {error})"
        ) from error
    return Section(
        "How much of a batch's gradient is that of all rows", columns, lines, notes=(note,)
    )


def agreement(facts: dict[str, float], batch: int) -> float:
    """A of a batch of so many rows, from the squares of its gradient and of all rows'."""
    of_rows = facts["signal"] + batch * (facts["batch"] - facts["signal"])
    return batch * facts["batch"] / of_rows


def _cell(facts: dict[str, float]) -> str:
    share = 100 * facts["signal"] / facts["batch"]
    error = facts["standard_error"]
    return f"{facts['signal']:.2f} ({error:.2f}) of {facts['batch']:.2f}: {share:.0f} %"
