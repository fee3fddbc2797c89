"""Selection of learning rates by validation, and what is still to run of a grid."""

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from experiments import CONF
from experiments.records.record import SETTLED, Record
from experiments.sweeps.grid import Grid, Point, next_rate, rate_key
from experiments.sweeps.matching import as_shipped, parsed, value_of, wanted

MOST_RATES = 12  # of a grid that grows: six decades


@dataclass(frozen=True)
class Choice:
    """What validation chose for one cell.

    Attributes:
        point: the cell's point with its rate; None where nothing can be chosen yet, or no rate
            trained.
        validation: rate -> validation accuracy of its run, None where the run failed.
        missing: the runs to choose from that have no record yet.
        failed: how the runs ended, where no rate can be chosen from them: their statuses that are
            not ok; "no_rate" where all are.
    """

    point: Point | None
    validation: dict[str, float | None] = field(default_factory=dict)
    missing: tuple[Point, ...] = ()
    failed: tuple[str, ...] = ()


class Shelf:
    """Records that are found by what they ran.

    Args:
        records: of any runs.
        conf: the folder of configuration files that they are compared with.

    Attributes:
        doubles: signatures of the records that a later one of the same run replaces.
        used: signatures of the records that were found so far.
        outdated: signatures of the records that are left out, for they ran on other rows than the
            latest run of their task did, or on other weights than that of their model: a cell must
            not mix two of either.
    """

    def __init__(self, records: Iterable[Record], conf: Path = CONF) -> None:
        self.conf = conf
        self.doubles: set[str] = set()
        self.used: set[str] = set()
        # task and optimizer -> seed -> records
        self._by_names: defaultdict[tuple[str, ...], defaultdict[int, list[Record]]] = defaultdict(
            lambda: defaultdict(list)
        )
        # every seed and fidelity of a cell asks for the same runs that choose its rate
        self._found: dict[frozenset[tuple[str, str]], Record | None] = {}
        kept, self.outdated = _of_latest(list(records), _rows)
        kept, others = _of_latest(kept, _weights)
        self.outdated |= others
        for record in kept:
            self._by_names[self._names(record["choices"])][record["config"]["seed"]].append(record)

    @staticmethod
    def _names(choices: Mapping[str, str]) -> tuple[str, ...]:
        return tuple(choices.get(group, "") for group in ("task", "optimizer"))

    def find(self, point: Point) -> Record | None:
        """The record of a run; the later one of two."""
        key = frozenset(point.items())
        if key not in self._found:
            self._found[key] = self._search(point)
        return self._found[key]

    def _search(self, point: Point) -> Record | None:
        # once for all records; what has a dot, such as the rate, tells most of them apart
        keys = sorted(wanted(point), key=lambda pair: "." not in pair[0])
        by_seed = self._by_names[self._names(point)]
        seeds = [parsed(point["seed"])] if "seed" in point else list(by_seed)
        fitting = [
            r
            for seed in seeds
            for r in by_seed[seed]
            if all(value_of(r, key) == value for key, value in keys)
            and as_shipped(r, point, self.conf)
        ]
        fitting.sort(
            key=lambda record: (record["status"] in SETTLED, record["provenance"]["started"])
        )
        self.doubles |= {record["signature"] for record in fitting[:-1]}
        self.used |= {record["signature"] for record in fitting[-1:]}
        return fitting[-1] if fitting else None

    def choose(self, grid: Grid, point: Point) -> Choice:
        """The point with the rate that the grid's criterion finds best; of equals the smaller one.

        Where the grid grows, the half decades beside the best rate must have been tried too; but
        none above the rate with which the choice begins (`Grid.first`).
        """
        candidates = grid.candidates(point)
        if not candidates:
            return Choice(point)
        key, most = rate_key(point["optimizer"], self.conf), math.inf
        if (before := grid.before(point)) is not None:
            earlier = self.choose(grid, before)
            if earlier.point is None:
                return Choice(None, missing=earlier.missing, failed=earlier.failed)
            candidates = [{**candidates[0], key: earlier.point[key]}]
            most = float(earlier.point[key])
        while True:
            found = [(candidate, self.find(candidate)) for candidate in candidates]
            missing = tuple(
                run for run, record in found if record is None or record["status"] not in SETTLED
            )
            validation = {run[key]: _score(record) for run, record in found if record}
            if missing:
                return Choice(None, validation, missing)
            values = {
                float(run[key]): value
                for run, record in found
                if (value := _value(record, grid.criterion)) is not None
            }
            tried = sorted(float(run[key]) for run, _ in found)
            best = max(values, key=lambda rate: (values[rate], -rate)) if values else tried[0]
            beside = [next_rate(best, up=up) for up in (True, False)] if grid.grows else []
            beside = [rate for rate in beside if rate <= most]
            untried = [rate for rate in beside if not any(map(partial(math.isclose, rate), tried))]
            if values and not untried:
                chosen = next(run[key] for run, _ in found if float(run[key]) == best)
                return Choice({**point, key: chosen}, validation)
            if not untried or len(tried) >= MOST_RATES:
                statuses = tuple(record["status"] for _, record in found if record)
                failed = tuple(status for status in statuses if status != "ok")
                return Choice(None, validation, failed=failed or ("no_rate",))
            candidates = [*candidates, {**candidates[0], key: f"{untried[0]:g}"}]


def _of_latest(
    records: list[Record], what: Callable[[Record], tuple[Hashable, str | None]]
) -> tuple[list[Record], set[str]]:
    """The records that have in each place what the latest one there has, and the signatures of the
    others. What has nothing there is kept."""
    latest: dict[Hashable, str] = {}
    for record in sorted(records, key=lambda record: record["provenance"]["started"]):
        place, content = what(record)
        if content is not None:
            latest[place] = content
    others = {
        record["signature"]
        for record in records
        if (found := what(record))[1] is not None and latest[found[0]] != found[1]
    }
    return [record for record in records if record["signature"] not in others], others


def _rows(record: Record) -> tuple[Hashable, str | None]:
    """A task, and the local rows that a run had of it."""
    return record["choices"].get("task", ""), record["config"].get("data", {}).get("root")


def _weights(record: Record) -> tuple[Hashable, str | None]:
    """A named model in a type, and the weights that a run started from; none where some are random,
    or the model is local and its content its name."""
    model, tuning = record["config"]["model"], record["choices"].get("tuning", "full")
    dtype = record["config"].get("precision", {}).get("dtype")
    known = tuning in ("full", "named", "in-context") and model.get("name") and record["model"]
    place = model.get("name"), dtype, model.get("quantization", "none")
    return place, record["model"].get("fingerprint") if known else None


def _score(record: Record | None) -> float | None:
    return (
        record["validation_accuracy"] if record is not None and record["status"] == "ok" else None
    )


def _value(record: Record | None, criterion: str) -> float | None:
    """The number by which runs are compared, the greatest being the best; None where the run
    failed."""
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
