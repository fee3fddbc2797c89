"""State of the artefacts: how many of their runs are there, or what was measured of them."""

import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from experiments import RESULTS
from experiments.records.record import SETTLED
from experiments.sweeps.grid import Grid, Point, holds, load, read
from experiments.sweeps.paper import step_costs
from experiments.sweeps.selection import Shelf, missing_runs
from experiments.tables.artefacts import Artefact
from experiments.tables.configured import SAME
from experiments.tables.inputs import Inputs
from experiments.tables.measured import measured
from experiments.tables.rendering import maker


def profiles(artefact: Artefact) -> list[str]:
    """Return the profiles that all sweeps of an artefact have."""
    each = [read(sweep)["profiles"] for sweep in artefact.sweeps]
    return [profile for profile in each[0] if all(profile in others for others in each)]


@dataclass
class Counts:
    """The runs of an artefact's cells in one profile.

    Attributes:
        statuses: how many runs have each status; `missing` was not run, `waits` waits for its rate.
        to_run: how many runs can be started now.
        used: whether any record is there.
    """

    statuses: Counter[str]
    to_run: int = 0
    used: bool = False

    @property
    def total(self) -> int:
        return sum(self.statuses.values())

    @property
    def missing(self) -> int:
        return self.statuses["missing"] + self.statuses["waits"]

    @property
    def failed(self) -> dict[str, int]:
        return {
            status: n
            for status, n in self.statuses.items()
            if status not in ("ok", "missing", "waits") and n
        }

    @property
    def state(self) -> str:
        """A run that diverged is a result, so that nothing is missing of it."""
        return "partial" if self.used and self.missing else "complete" if self.used else "not run"


def counted(artefact: Artefact, profile: str, inputs: Inputs) -> Counts:
    """Count how far an artefact is in a profile."""
    counts = Counts(Counter())
    for sweep in artefact.sweeps:
        whole, shelf = load(sweep, profile), Shelf(inputs.records(profile))
        grid = replace(whole, points=tuple(p for p in whole.points if holds(p, artefact.picked)))
        counts.to_run += sum(map(len, missing_runs(grid, shelf)))
        for point in grid.points:
            counts.statuses[_status(shelf, grid, point)] += 1
        counts.used |= bool(shelf.used)
    return counts


def _status(shelf: Shelf, grid: Grid, point: Point) -> str:
    """How the run of a cell ended, `missing`, or `waits` while its learning rate is not chosen."""
    choice = shelf.choose(grid, point)
    if choice.missing:
        return "waits"
    if choice.failed:
        return choice.failed[0]
    record = shelf.find(choice.point) if choice.point else None
    return record["status"] if record and record["status"] in SETTLED else "missing"


class Summary(NamedTuple):
    """How far an artefact is that is not made of runs.

    Attributes:
        line: what the status page says.
        paper, here: what results/README.md says in its columns, for the paper's models and
            this machine.
    """

    line: str
    paper: str
    here: str


def summary(artefact: Artefact) -> Summary:
    """Say how far an artefact of a study, of the benchmark or of the configuration files is."""
    return _SUMMARIES[artefact.source](artefact)


def _studied(artefact: Artefact) -> Summary:
    """Say what a study has measured, or that it was not measured."""
    pattern, what = artefact.files[0], artefact.measured
    files = sorted(RESULTS.glob(pattern))
    if not files:
        return Summary(f"not measured: make run-{artefact.name}", "-", "not run")
    if "*" in pattern:  # a file a model, with curves
        curves = [curve for file in files for curve in _curves(file)]
        ended = sum(curve.get("complete", False) for curve in curves)
        what += f", {ended} of {len(curves)} curves to their end"
    return Summary(f"measured: {what}", "-", f"measured: {what}")


def _curves(file: Path) -> list[dict]:
    try:
        return list(json.loads(file.read_text(encoding="utf-8"))["curves"].values())
    except (ValueError, LookupError, AttributeError):  # the table names it
        return []


def _benched(artefact: Artefact) -> Summary:
    """Say which models the benchmark was run on: the paper's on a GPU, and all others."""
    del artefact  # Table 4 and Figure 2 show the same
    theirs, others = _benched_models(gpu=True), _benched_models(gpu=False)
    not_here = f"the paper's settings not measured; others: {others or 'none'}"
    return Summary(
        f"measured: {theirs}" if theirs else not_here,
        f"measured: {theirs}" if theirs else "not run (needs a GPU)",
        others or "not run",
    )


def _benched_models(gpu: bool) -> str:
    """ "OPT-13B bf16, Mistral-7B fp16 on CARD; ..."."""
    found: dict[str, dict[str, None]] = {}  # card -> its models, in order
    theirs = step_costs()[0]
    for row in measured()[0]:
        if gpu == (row.gpu and (row.model, row.precision) in theirs):
            found.setdefault(row.card, {})[f"{row.model} {row.precision}"] = None
    return "; ".join(f"{', '.join(models)} on {card}" for card, models in found.items())


def _configured(artefact: Artefact) -> Summary:
    """Say in how many rows the configuration files agree with the paper."""
    sections = maker(artefact)(artefact, None)
    verdicts = Counter(row[-1] for section in sections for row in section.rows if row[-1])
    text = f"the configuration files agree in {verdicts[SAME]} of {sum(verdicts.values())} rows"
    return Summary(text, text, "-")


_SUMMARIES = {"study": _studied, "bench": _benched, "conf": _configured}
