"""Runs beside a grid: each changes one thing of a cell, to answer one question."""

from collections.abc import Iterator, Mapping
from typing import Any

from experiments.sweeps.selection import Record

NOTHING = "-"
USUAL = "AVX512"  # instructions of the processors that most of the runs were on
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

    A cell of the same method comes before all others, then the one with the fewest changes, and of
    these one on the same processor. Learning rate, passes and seed are left out of what is told,
    and so is a folder of the same weights. The processor is named where it is another one; a run
    that changes nothing at all is the cell "again".

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

    def processor(run: Record) -> str:
        hardware = run["provenance"]["hardware"]
        said = hardware.get("instructions", USUAL)  # the first records do not say
        return hardware["cpu"] if said == USUAL else f"{hardware['cpu']} {said}"

    def distance(signature: str) -> tuple[bool, int, bool, str]:
        cell = cells[signature]
        elsewhere = processor(cell) != processor(record)
        other = cell["choices"]["optimizer"] != record["choices"]["optimizer"]
        return other, len(apart[signature]), elsewhere, signature

    found = min(apart, key=distance)
    told = [
        f"{key.removeprefix('optimizer.')}={own.get(key, NOTHING)}"
        for key in apart[found]
        if key not in LEFT_OUT
        and (same_task or not key.startswith(("task.", "data.")))
        and not (key == "model.path" and _same_weights(record["model"], cells[found]["model"]))
    ]
    if processor(record) != processor(cells[found]):
        told.append(f"processor: {processor(record)}")
    elif not apart[found]:
        told = ["again"]
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
