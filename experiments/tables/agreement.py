"""Table of own directions: the runs of `sweep=each`, and how far the examples of a batch agree,
which says when such directions pay."""

import json
import statistics
from pathlib import Path
from typing import Any

from experiments.sweeps.names import MODELS, TASKS, shown
from experiments.tables import equal_passes
from experiments.tables.artefacts import Artefact
from experiments.tables.inputs import Inputs
from experiments.tables.layout import Section
from experiments.tables.sources import MEASURED, MeasurementError

FILE = MEASURED / "agreement.json"
NOTHING = "-"
NOTE = (
    "B |grad L|^2 / mean_e |grad l_e|^2, L the mean of the examples' losses l_e: the variance of a"
    " step along one shared direction over that of one along a direction for each example, between"
    " 0 and B. Mean (sample deviation) over {batches} batches of B = {batch} examples, of true"
    " gradients of the linear layers' weights, along a run of MeZO with own directions"
    " (`python -m scripts.study.agreement`)."
)


def sections(artefact: Artefact, inputs: Inputs) -> list[Section]:
    """Build the accuracies, the passes to one loss, the rates, and what was measured beside."""
    found = equal_passes.sections(artefact, inputs)
    return [*found, agreement_section(FILE)] if FILE.is_file() else found


def agreement_section(file: Path) -> Section:
    """Build a line a task, a column a step at which it was measured.

    Raises:
        MeasurementError: the file is not what the study writes.
    """
    try:
        facts: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        note, lines = NOTE.format(**facts), []
        steps = sorted({at["step"] for run in facts["runs"] for at in run["along"]})
        for run in facts["runs"]:
            cells = {at["step"]: _cell(at["agreement"]) for at in run["along"]}
            name = f"{shown(MODELS, run['model'])}, {shown(TASKS, run['task'])}"
            lines.append((name, *(cells.get(step, NOTHING) for step in steps)))
    except (ValueError, LookupError, TypeError) as error:
        raise MeasurementError(
            f"{file.name}: not a report of scripts.study.agreement"
            f" ({type(error).__name__}: {error})"
        ) from error
    columns = ("model and task", *(f"after {step} steps" for step in steps))
    return Section("How far examples agree", columns, tuple(lines), notes=(note,))


def _cell(values: list[float]) -> str:
    return f"{statistics.fmean(values):.2f} ({statistics.stdev(values):.2f})"
