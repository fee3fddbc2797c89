"""Runs beside a grid: each changes one thing of a cell, to answer one question."""

from collections.abc import Iterator, Mapping
from typing import Any

from experiments.sweeps.selection import Record

NOTHING = "-"
# a table has columns for these
LEFT_OUT = (
    "optimizer.lr",
    "optimizer.algorithm.lr",
    "optimizer.seed",
    "protocol.max_forwards",
    "seed",
)


def nearest(
    record: Record, cells: Mapping[str, Record], *, same_task: bool = True
) -> tuple[str, str]:
    """The cell that a run is most like, and what the run changes of it: `key=value, ...`.

    A cell of the same method comes before all others, and then the one with the fewest changes.
    Learning rate, passes and seed are left out of the changes, and so is a folder of the same
    weights. A run that has a cell's whole
    configuration is the cell "again", or names the processor if that is another one.

    Args:
        record: of the run.
        cells: the records of the grid, at least one, each under its signature.
        same_task: another task is a change; false leaves it and its rows out of the changes.

    Returns:
        The signature of that cell, and the changes.
    """
    own = dict(_leaves(record["config"]))
    apart = {
        signature: _differing(own, dict(_leaves(cell["config"])))
        for signature, cell in cells.items()
    }
    method = record["choices"]["optimizer"]
    found = min(
        apart,
        key=lambda s: (cells[s]["choices"]["optimizer"] != method, len(apart[s]), s),
    )
    told = [
        f"{key.removeprefix('optimizer.')}={own.get(key, NOTHING)}"
        for key in apart[found]
        if key not in LEFT_OUT
        and (same_task or not key.startswith(("task.", "data.")))
        and not (key == "model.path" and _same_weights(record["model"], cells[found]["model"]))
    ]
    if not apart[found]:
        here, there = (r["provenance"]["hardware"]["cpu"] for r in (record, cells[found]))
        told = ["again" if here == there else f"processor: {here}"]
    return found, ", ".join(told) or NOTHING


def _same_weights(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two runs began with the same bits, or with those of the same file in another type."""
    files = [model.get("origin", {}).get("sha256") for model in (one, other)]
    if None not in files:
        return files[0] == files[1]
    return one.get("fingerprint") == other.get("fingerprint")


def _differing(own: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The keys that two configurations do not have alike, in alphabetical order."""
    return sorted(
        key
        for key in own.keys() | other.keys()
        if key not in own or key not in other or own[key] != other[key]
    )


def _leaves(node: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a configuration with their dotted keys."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{before}{key}.")
        else:
            yield before + key, value
