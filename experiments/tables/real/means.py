"""Section of the real study's table: the mean of the weights of several runs."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.tables.layout import Section
from experiments.tables.sources import MEASURED, MeasurementError

FOLDER = MEASURED / "means"
COLUMNS = ("method", "lr", "passes of a run", "runs in a mean", "validation loss", "test loss")
COLUMNS += ("validation %", "test %")
NOTE = (
    "Scores of the mean of the weights of so many runs, which have different seeds and never met:"
    " mean (sample deviation; number of such means), no run in two means of a size. The weights are"
    " those at the end of each run. Runs of a later round start from the mean of the one before."
    " `python -m scripts.study.means`; `bszo replay LOG LOG ..` makes such a mean."
)


def means_section(folder: Path) -> Section | None:
    """Build a line for every number of runs in a mean, a method after another; None where no method
    has been measured.

    Raises:
        MeasurementError: a file is not what the study writes.
    """
    files = [_lines(file) for file in sorted(folder.glob("*.json"))]
    # the first round of every method before any second one
    lines = tuple(line for _, own in sorted(files, key=lambda found: found[0]) for line in own)
    title = "The mean of the weights of several runs"
    return Section(title, COLUMNS, lines, notes=(NOTE,)) if lines else None


def _lines(file: Path) -> tuple[int, list[tuple[str, ...]]]:
    """How many rounds came before, and a line for every number of runs."""
    try:
        facts: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        (lr,) = {run["lr"] for run in facts["runs"]}
        passes = statistics.median(run["num_forwards"] for run in facts["runs"])
        rounds = facts.get("start", ())  # a report of before has none
        before = " and ".join(str(len(logs)) for logs in rounds)
        which = f", round {len(rounds) + 1}, after {before} runs" * bool(rounds)
        method = facts["method"] + which
        start = (method, f"{lr:g}", f"{passes:,.0f}")
        sizes = sorted({len(mean["seeds"]) for mean in facts["means"]})
        return len(rounds), [(*start, *_scores(size, facts["means"])) for size in sizes]
    except (ValueError, LookupError, TypeError) as error:
        raise MeasurementError(
            f"{file.name}: not a report of scripts.study.means ({type(error).__name__}: {error})"
        ) from error


def _scores(size: int, means: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """The size of a group, and the scores of all groups of that size."""
    found = [mean for mean in means if len(mean["seeds"]) == size]

    def shown(key: str, scale: int, form: str) -> str:
        values = [scale * mean[key] for mean in found]
        spread = f"{statistics.stdev(values):{form}}; " if len(values) > 1 else ""
        return f"{statistics.fmean(values):{form}} ({spread}{len(values)})"

    losses = (shown(f"{split}_loss", 1, ".3f") for split in ("validation", "test"))
    points = (shown(f"{split}_accuracy", 100, ".1f") for split in ("validation", "test"))
    return str(size), *losses, *points
