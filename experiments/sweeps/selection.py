"""Which record answers which point of a grid, and which learning rate validation chooses.

A record answers a point when it has the point's values and, in every group that the point does not
touch, those of the configuration files: a run with a shortened protocol answers nothing.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from experiments import CONF
from experiments.records.record import SETTLED as SETTLED
from experiments.records.record import Record as Record
from experiments.sweeps.grid import Grid, Point, next_rate, rate_key

MOST_RATES = 12  # of a grid that grows: six decades
_CHECKED = ("model", "task", "data", "optimizer", "precision", "protocol", "fidelity", "tuning")
# rates, which a point may leave to conf/tuned, and where things lie
_FREE = (
    "optimizer.lr",
    "optimizer.algorithm.lr",
    "optimizer.zeroth_order.lr",
    "model.path",
    "model.device_map",
    "data.root",
)


@dataclass(frozen=True)
class Choice:
    """What validation chose for one cell.

    Attributes:
        point: the cell's point with its rate; None where nothing can be chosen yet, or no rate
            trained.
        validation: rate -> validation accuracy of its run, None where it failed.
        missing: the runs to choose from that are not there.
        failed: statuses, where no rate trained.
    """

    point: Point | None
    validation: dict[str, float | None] = field(default_factory=dict)
    missing: tuple[Point, ...] = ()
    failed: tuple[str, ...] = ()


class Shelf:
    """Records, to be found by what they ran.

    Args:
        records: any.
        conf: the folder of configuration files that they are held against.

    Attributes:
        doubles: files' signatures that another, later record replaces.
        used: signatures of the records that were found so far.
    """

    def __init__(self, records: Iterable[Record], conf: Path = CONF) -> None:
        self.conf = conf
        self.doubles: set[str] = set()
        self.used: set[str] = set()
        self._by_names: defaultdict[tuple[str, ...], list[Record]] = defaultdict(list)
        for record in records:
            self._by_names[self._names(record["choices"])].append(record)

    @staticmethod
    def _names(choices: Mapping[str, str]) -> tuple[str, ...]:
        return tuple(choices.get(group, "") for group in ("task", "optimizer"))

    def find(self, point: Point) -> Record | None:
        """The record of a run; the later one of two."""
        fitting = [
            r
            for r in self._by_names[self._names(point)]
            if fits(r, point) and as_shipped(r, point, self.conf)
        ]
        fitting.sort(
            key=lambda record: (record["status"] in SETTLED, record["provenance"]["started"])
        )
        self.doubles |= {record["signature"] for record in fitting[:-1]}
        self.used |= {record["signature"] for record in fitting[-1:]}
        return fitting[-1] if fitting else None

    def choose(self, grid: Grid, point: Point) -> Choice:
        """The point with the rate that the grid's criterion finds best; of equals the smaller one.

        Where the grid grows, a best rate at an end of those tried makes the next one missing.
        """
        candidates = grid.candidates(point)
        if not candidates:
            return Choice(point)
        key = rate_key(point["optimizer"], self.conf)
        while True:
            found = [(candidate, self.find(candidate)) for candidate in candidates]
            missing = tuple(
                run for run, record in found if record is None or record["status"] not in SETTLED
            )
            if missing:
                return Choice(None, missing=missing)
            validation = {run[key]: _score(record) for run, record in found}
            values = {
                float(run[key]): value
                for run, record in found
                if (value := _value(record, grid.criterion)) is not None
            }
            tried = sorted(float(run[key]) for run, _ in found)
            best = max(values, key=lambda rate: (values[rate], -rate)) if values else tried[0]
            if values and not (grid.grows and best in (tried[0], tried[-1])):
                chosen = next(run[key] for run, _ in found if float(run[key]) == best)
                return Choice({**point, key: chosen}, validation)
            if not grid.grows or len(tried) >= MOST_RATES:
                statuses = tuple(record["status"] for _, record in found if record)
                return Choice(None, validation, failed=statuses)
            further = f"{next_rate(best, up=best == tried[-1]):g}"
            candidates = [*candidates, {**candidates[0], key: further}]


def _score(record: Record | None) -> float | None:
    return (
        record["validation_accuracy"] if record is not None and record["status"] == "ok" else None
    )


def _value(record: Record | None, criterion: str) -> float | None:
    """What a choice makes as great as it can; None where the run failed."""
    if record is None or record["status"] != "ok":
        return None
    if criterion == "validation_loss":
        loss = record["curve"][-1]["validation_loss"]
        return None if loss is None else -loss
    return record["validation_accuracy"]


def missing_runs(grid: Grid, shelf: Shelf) -> tuple[list[Point], list[Point]]:
    """The runs still to do: those that choose the rates, and those of the cells whose rate is
    known."""
    first: dict[tuple[tuple[str, str], ...], Point] = {}
    then: dict[tuple[tuple[str, str], ...], Point] = {}
    for point in grid.points:
        choice = shelf.choose(grid, point)
        first.update({tuple(sorted(run.items())): run for run in choice.missing})
        if choice.point is not None and not _settled(shelf.find(choice.point)):
            then[tuple(sorted(choice.point.items()))] = choice.point
    return list(first.values()), [run for key, run in then.items() if key not in first]


def _settled(record: Record | None) -> bool:
    return record is not None and record["status"] in SETTLED


def fits(record: Record, point: Point) -> bool:
    """True where every value of the point is the record's: a group's choice, or a key of the
    configuration."""
    return all(
        value_of(record, key) == literal(value)
        for key, value in point.items()
        if not says_where(key)
    )


# of local ones: the key of the folder, and the group
PLACES = {"model.path": "model", "data.root": "data"}


def says_where(key: str) -> bool:
    """A key that moves no number: where a run is, and whom it tells."""
    return key.split(".")[0] in ("tracker", "paths", "device", "threads", "checkpoint")


def value_of(record: Record, key: str) -> Any:
    if key == "model" and record["config"]["model"].get("name") is None:
        return "local"
    if key in record["choices"]:
        return record["choices"][key]
    value: Any = record["config"]
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def picked(grid: Grid, key: str, values: Iterable[str]) -> Grid:
    """The grid of the points that have one of these values, however it is written; it may have
    none."""
    wanted = [literal(value) for value in values]
    points = tuple(point for point in grid.points if key in point and literal(point[key]) in wanted)
    return replace(grid, points=points)


def literal(text: str) -> Any:
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
        _same(record["config"].get(group), node, group, record, point)
        for group, node in shipped.items()
    )


def _same(held: Any, shipped: Any, key: str, record: Record, point: Point) -> bool:
    """True where a record's value is a file's; a key that only one of them has, or that is left
    open, changes none."""
    # `optimizer` in a point is the choice of a file, `optimizer.k` a value
    chosen = key in point and "." in key
    if chosen or key in _FREE or shipped == "???":
        return True
    if isinstance(shipped, Mapping):
        return not isinstance(held, Mapping) or all(
            _same(held[name], value, f"{key}.{name}", record, point)
            for name, value in shipped.items()
            if name in held
        )
    if isinstance(shipped, str) and shipped.startswith("${"):
        return held == value_of(record, shipped[2:-1])
    return held == shipped or (isinstance(shipped, str) and held == literal(shipped))


def model_node(name: str) -> Mapping[str, Any]:
    """conf/model/NAME.yaml; empty where there is none, or it leaves the path open."""
    node = shipped_node(CONF / "model" / f"{name}.yaml") if "/" not in name else {}
    return {} if node.get("path") == "???" else node


@cache
def shipped_node(file: Path) -> Mapping[str, Any]:
    """A configuration file as it is written; empty where there is none."""
    return yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {}
