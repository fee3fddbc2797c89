"""Section of the walk's table: runs that no sweep started, on the models and rows of the walk, such
as LOZO whose perturbation meets a layer's answer and rounds into no matrix."""

from collections.abc import Iterable, Sequence
from typing import Any

from experiments.records.record import Record
from experiments.sweeps.names import METHODS, shown
from experiments.tables.cells import in_points, last
from experiments.tables.layout import Section

COLUMNS = ("method", "lr", "precision", "eps", "perturbation", "seeds")
COLUMNS += ("last training loss", "test %", "theta + eps z swallowed")
NOTE = (
    "Runs of the models, rows and number of steps above that no sweep started (`records/single`),"
    " seed by seed. Of so many of them more than half of theta + eps z rounded back to theta"
    " (`swallowed_perturbation` in the record; older records do not say)."
)
WARNING = "swallowed_perturbation"


def alike(single: Iterable[Record], gridded: Iterable[Record]) -> list[Record]:
    """Those of the runs that no sweep started which can be read beside the grid's."""
    known = {_kind(record) for record in gridded}
    return [record for record in single if _kind(record) in known and record["status"] == "ok"]


def beside_section(records: Iterable[Record]) -> Section | None:
    """Build a line for every setting, its runs in the order of their seeds; None for no run."""
    groups: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        groups.setdefault(_setting(record), []).append(record)
    rows = tuple((*setting, *_scores(records)) for setting, records in sorted(groups.items()))
    return Section("Beside the grid", COLUMNS, rows, notes=(NOTE,)) if rows else None


def _kind(record: Record) -> tuple[Any, ...]:
    """What runs must share to be read side by side."""
    choices, counts = record["choices"], record["data"]["num_examples"]
    same = (choices[key] for key in ("model", "task", "data", "tuning"))
    return *same, record["num_steps"], *sorted(counts.items())


def _setting(record: Record) -> tuple[str, ...]:
    node, choices = record["config"]["optimizer"], record["choices"]
    rates = f"{node['lr']:g}", choices["precision"], f"{node['eps']:g}", node["perturbation"]
    return shown(METHODS, choices["optimizer"]), *rates


def _scores(records: Sequence[Record]) -> tuple[str, ...]:
    by_seed = sorted(records, key=lambda record: record["config"]["seed"])
    swallowed = sum(WARNING in record["warnings"] for record in by_seed)
    return (
        ", ".join(str(record["config"]["seed"]) for record in by_seed),
        ", ".join(f"{last(record, 'train_loss'):.2f}" for record in by_seed),
        ", ".join(f"{in_points(record):.1f}" for record in by_seed),
        f"{swallowed} of {len(by_seed)}",
    )
