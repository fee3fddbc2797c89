"""Every table and figure: the sweeps that it is made of, or what it is measured by, and how far
that is."""

import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from experiments import RESULTS
from experiments.sweeps.grid import holds, load, read
from experiments.sweeps.matching import SETTLED
from experiments.sweeps.selection import Shelf, missing_runs
from experiments.tables.command import Inputs
from experiments.tables.configured import SAME, hyperparameters, splits
from experiments.tables.measured import measured, paper

SWEEPS = {
    "table1": ("table1",),
    "table3": ("table3",),
    "table5": ("table5a", "table5b", "table5c", "table5d"),
    "table11": ("table1",),
    "table12": ("table5a", "table5b", "table12c"),
    "table_walk": ("walk",),
    "zo_bench": ("zo_bench",),
    "figure1": ("figure1",),
    "figure_gain": ("table3", "figure1"),
}
# of their sweeps' runs
PICKED = {"figure_gain": {"task": "sst2", "optimizer": "bszo", "fidelity": "corrected"}}
STUDIES = {  # artefact -> the files that its measurement leaves, and what they hold
    "table2": ("bench/state.json", "bytes of optimizer state, growing models and k = 1 ... 16"),
    "figure_theory": ("theory.json", "Theorem 3.7, Eq. 55, Corollaries 3.6 and 4.3"),
    "figure_drift": ("walk/*.json", "drift and perplexity at learning rate 0"),
}
BENCHED = ("table4", "figure2")
READ_OFF = ("table6", "table7", "table8", "table9", "table10")


def everything() -> list[str]:
    """All artefacts: tables by their numbers, then the others, then figures."""
    found = [*SWEEPS, *STUDIES, *BENCHED, *READ_OFF]
    order = {
        name: (name.startswith("figure"), int("".join(filter(str.isdigit, name)) or 99), name)
        for name in found
    }
    return sorted(found, key=lambda name: order[name])


def profiles(name: str) -> list[str]:
    """Those that all sweeps of an artefact have."""
    each = [read(sweep)["profiles"] for sweep in SWEEPS[name]]
    return [profile for profile in each[0] if all(profile in others for others in each)]


@dataclass
class Counts:
    """Runs of an artefact's cells in one profile.

    Attributes:
        statuses: of the cells' runs; `missing`: not run; `waits`: its rate is not chosen yet.
        to_run: runs that can be started now.
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
        """A run that diverged is a result: nothing is missing of it."""
        return "partial" if self.used and self.missing else "complete" if self.used else "not run"


def counted(name: str, profile: str, inputs: Inputs) -> Counts:
    """How far an artefact is in a profile."""
    counts = Counts(Counter())
    for sweep in SWEEPS[name]:
        whole, shelf = load(sweep, profile), Shelf(inputs.records(profile))
        grid = replace(
            whole, points=tuple(p for p in whole.points if holds(p, PICKED.get(name, {})))
        )
        counts.to_run += sum(map(len, missing_runs(grid, shelf)))
        for point in grid.points:
            choice = shelf.choose(grid, point)
            record = shelf.find(choice.point) if choice.point else None
            counts.statuses[
                (
                    "waits"
                    if choice.missing
                    else (
                        choice.failed[0]
                        if choice.failed
                        else (
                            record["status"]
                            if record and record["status"] in SETTLED
                            else "missing"
                        )
                    )
                )
            ] += 1
        counts.used |= bool(shelf.used)
    return counts


def studied(name: str) -> str:
    """What a study has measured, or that it was not."""
    pattern, what = STUDIES[name]
    if name == "figure_drift":
        curves = [curve for file in sorted(RESULTS.glob(pattern)) for curve in _curves(file)]
        what += (
            f", {sum(curve.get('complete', False) for curve in curves)} of {len(curves)} curves to"
            " their end"
        )
    return what if any(RESULTS.glob(pattern)) else ""


def _curves(file: Path) -> list[dict]:
    try:
        return list(json.loads(file.read_text(encoding="utf-8"))["curves"].values())
    except (ValueError, LookupError, AttributeError):  # the table names it
        return []


def benched(gpu: bool) -> str:
    """Which models the benchmark was run on: the paper's on a GPU, or the others and CPUs."""
    found: dict[str, dict[str, None]] = {}  # card -> its models, in order
    theirs = paper()[0]
    for row in measured()[0]:
        if gpu == (row.gpu and (row.model, row.precision) in theirs):
            found.setdefault(row.card, {})[f"{row.model} {row.precision}"] = None
    return "; ".join(f"{', '.join(models)} on {card}" for card, models in found.items())


def configured(name: str) -> str:
    made = splits() if name == "table6" else hyperparameters(int(name.removeprefix("table")))
    verdicts = Counter(row[-1] for row in made.rows if row[-1])
    return f"the configuration files agree in {verdicts[SAME]} of {sum(verdicts.values())} rows"
