"""Matching of records with runs: does a record answer a point of a grid?

A record answers a point when it has the values that the point names, and everywhere else those of
the configuration files. So a run with a shortened protocol, or with other weights under a model's
name, answers no point.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from experiments import CONF
from experiments.config.yaml_files import exists, read_yaml
from experiments.records.record import Record
from experiments.records.signing import earlier_values
from experiments.sweeps.grid import Grid, Point

_CHECKED = ("model", "task", "data", "optimizer", "precision", "protocol", "fidelity", "tuning")
# rates, which a point may leave to conf/tuned, and where the model and the rows lie
_FREE = (
    "optimizer.lr",
    "optimizer.algorithm.lr",
    "optimizer.zeroth_order.lr",
    "model.device_map",
    "model.offload",
    "data.root",
)


def fits(record: Record, point: Point) -> bool:
    """True where every value of the point is the record's: a group's choice, or a key of the
    configuration."""
    return all(value_of(record, key) == value for key, value in wanted(point))


def wanted(point: Point) -> list[tuple[str, Any]]:
    """The keys and values that a point asks for of a record."""
    return [(key, parsed(value)) for key, value in point.items() if not says_where(key)]


# key of a folder -> its group, of the choice `local`
PLACES = {"model.path": "model", "data.root": "data"}


def says_where(key: str) -> bool:
    """True for a key that changes no number: it says where a run is, or whom it tells."""
    return key.split(".")[0] in ("tracker", "paths", "device", "threads", "checkpoint")


def value_of(record: Record, key: str) -> Any:
    """A group's choice of the record's run, or a value of its configuration; None where it has
    neither."""
    if key == "model" and record["config"]["model"].get("name") is None:
        return "local"
    if key in record["choices"]:
        return record["choices"][key]
    value: Any = record["config"]
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def picked(grid: Grid, key: str, values: Iterable[str]) -> Grid:
    """The grid of those points that have one of these values, however the value is written."""
    wanted = [parsed(value) for value in values]
    points = tuple(point for point in grid.points if key in point and parsed(point[key]) in wanted)
    return replace(grid, points=points)


@cache
def parsed(text: str) -> Any:
    """An override's value as the configuration holds it: 1e-4 is a number, true a truth value."""
    special = {"true": True, "false": False, "null": None}
    if text in special:
        return special[text]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def as_shipped(record: Record, point: Point, conf: Path = CONF) -> bool:
    """True where everything that the point does not name is as the configuration files have it."""
    if record["choices"].get("tuning", "full") != point.get("tuning", "full"):
        return False
    files = {
        group: conf / group / f"{point.get(group, record['choices'].get(group))}.yaml"
        for group in _CHECKED
    }
    shipped = {
        "directions": shipped_node(conf / "config.yaml").get("directions", {}),
        **{group: shipped_node(file) for group, file in files.items()},
    }
    return all(
        _same(record["config"].get(group), node, group, record, point, shipped)
        for group, node in shipped.items()
    )


def _same(
    held: Any, shipped: Any, key: str, record: Record, point: Point, files: Mapping[str, Any]
) -> bool:
    """True where a record's value is the file's.

    A key that the file leaves open says nothing. One that only the file has stands for what was
    done before the key was there, where records say what that is (`LATER_KEYS`), and else says
    nothing. One that only the record has must have been named by the point.
    """
    # `optimizer` in a point is the choice of a file, `optimizer.k` a value
    chosen = key in point and "." in key
    if chosen or key in _FREE or shipped == "???":
        return True
    if key == "model.path":  # a folder is recorded as name@content, and kept as cache:name@origin
        name = re.split("[:/]", shipped)[-1].partition("@")[0]
        return held == shipped or str(held).partition("@")[0] == name
    if isinstance(shipped, Mapping):
        if not isinstance(held, Mapping) or not shipped:
            return True
        before = earlier_values(key, held.get("_target_"))
        said = {**before, **held}
        return all(
            _same(said[name], value, f"{key}.{name}", record, point, files)
            for name, value in shipped.items()
            if name in said
        ) and all(
            name in shipped or f"{key}.{name}" in point or f"{key}.{name}" in _FREE for name in held
        )
    while isinstance(shipped, str) and shipped.startswith("${"):
        # a switch that came later is in no record, where it says what was done before
        group, _, name = shipped[2:-1].partition(".")
        meant = value_of(record, shipped[2:-1])
        shipped = files.get(group, {}).get(name) if meant is None else meant
    return held == shipped or (isinstance(shipped, str) and held == parsed(shipped))


def model_node(name: str) -> Mapping[str, Any]:
    """conf/model/NAME.yaml; empty where there is none, or it leaves the path open."""
    node = shipped_node(CONF / "model" / f"{name}.yaml") if "/" not in name else {}
    return {} if node.get("path") == "???" else node


@cache
def shipped_node(file: Path) -> Mapping[str, Any]:
    """A configuration file as it is written; empty where there is none."""
    return read_yaml(file.read_text(encoding="utf-8")) if exists(file.is_file) else {}
