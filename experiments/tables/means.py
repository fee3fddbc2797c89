"""Section of the real study's table: the mean of the weights of several runs."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.tables.layout import Section
from experiments.tables.sources import MEASURED, MeasurementError

FOLDER = MEASURED / "means"
COLUMNS = ("method", "lr", "passes of a run", "runs in the mean", "validation loss", "test loss")
COLUMNS += ("validation %", "test %", "least and most")
NOTE = (
    "Scores of the mean of the weights of so many runs, which have different seeds and never met:"
    " the mean over all choices of so many from the runs there are (the number of choices), and the"
    " least and the most test accuracy among them. The parameters are those at the end of each run."
    " `python -m scripts.study.means`; `bszo replay LOG LOG ..` makes such a mean."
)


def means_section(folder: Path) -> Section | None:
    """Build a line for every number of runs in a mean, a method after another; None where no method
    has been measured.

    Raises:
        MeasurementError: a file is not what the study writes.
    """
    files = sorted(folder.glob("*.json"))
    lines = tuple(line for file in files for line in _lines(file))
    title = "The mean of the weights of several runs"
    return Section(title, COLUMNS, lines, notes=(NOTE,)) if lines else None


def _lines(file: Path) -> list[tuple[str, ...]]:
    try:
        facts: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        (lr,) = {run["lr"] for run in facts["runs"]}
        passes = statistics.median(run["num_forwards"] for run in facts["runs"])
        start = (facts["method"], f"{lr:g}", f"{passes:,.0f}")
        counts = range(1, len(facts["runs"]) + 1)
        return [(*start, *_scores(count, facts["subsets"])) for count in counts]
    except (ValueError, LookupError, TypeError) as error:
        raise MeasurementError(
            f"{file.name}: not a report of scripts.study.means ({type(error).__name__}: {error})"
        ) from error


def _scores(count: int, subsets: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """How many runs, the means of their scores, and the ends of the test accuracy."""
    found = [subset for subset in subsets if len(subset["seeds"]) == count]

    def mean(key: str) -> float:
        return statistics.fmean(subset[key] for subset in found)

    losses = (f"{mean(f'{split}_loss'):.3f}" for split in ("validation", "test"))
    points = (f"{100 * mean(f'{split}_accuracy'):.1f}" for split in ("validation", "test"))
    tests = [100 * subset["test_accuracy"] for subset in found]
    return f"{count} ({len(found)})", *losses, *points, f"{min(tests):.1f}, {max(tests):.1f}"
