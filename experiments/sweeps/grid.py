"""Grid of an artefact: the runs that it needs, read from `conf/sweep/<name>.yaml` without Hydra.

A point is the overrides of one run: {"task": "rte", "optimizer": "bszo", "seed": "0", ...}. The
points of a profile are the product of the file's axes. The learning rate is not an axis: validation
chooses it, as `experiments.sweeps.selection` says.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bszo.errors import ConfigError
from experiments import CONF
from experiments.config.yaml_files import check, read_text, read_yaml

PROFILES = ("paper", "mini", "local", "real")
CRITERIA = ("validation_accuracy", "validation_loss")
Point = dict[str, str]


class GridError(Exception):
    """A sweep's file, or a profile asked of it, that cannot be used; the message is one line."""


@dataclass(frozen=True)
class Grid:
    """One artefact in one profile.

    Attributes:
        name: of the artefact.
        profile: one of PROFILES.
        points: one for every run, without its learning rate.
        select: values that the runs which choose the rate have in place of the point's own:
            {"seed": "0"}. It is None where the points hold the rate, or conf/tuned does.
        rates: (model, optimizer) -> the rates to choose from. The model of a run that trains an
            adapter is called model+tuning, as `trained` makes it.
        settings: the axis of models and precisions, in the order of the rows.
        conf: the folder of configuration files that the names refer to.
        where: pairs (values, others): a run that has the first gets the second in place of its own,
            such as ({"protocol.max_forwards": "1000"}, {"protocol.num_steps": "333"}).
        criterion: the rate is chosen by the best validation accuracy of its run, or by the loss of
            its last evaluation.
        grows: True where the greatest and the smallest of the rates tried are never chosen: the
            next half decade is tried instead.
        first: values of the points whose rates are chosen first: {"protocol.max_forwards": "1000"}.
            The others begin with the rate chosen there and try smaller ones alone, since a longer
            run bears no greater rate. It is None where every point has all rates to choose from.
    """

    name: str
    profile: str
    points: tuple[Point, ...]
    select: Point | None
    rates: Mapping[tuple[str, str], tuple[float, ...]]
    settings: tuple[Point, ...]
    conf: Path
    where: tuple[tuple[Point, Point], ...] = ()
    criterion: str = CRITERIA[0]
    grows: bool = False
    first: Point | None = None

    def before(self, point: Point) -> Point | None:
        """With whose rate the choice for a point begins; None where it has all."""
        if self.first is None or holds(point, self.first):
            return None
        return adjusted({**point, **self.first}, self.where)

    def candidates(self, point: Point) -> list[Point]:
        """The runs among which the learning rate of `point` is chosen; empty where it is not
        chosen. Where the grid grows, they are those that it begins with."""
        if self.select is None:
            return []
        key, place = rate_key(point["optimizer"], self.conf), (trained(point), point["optimizer"])
        if place not in self.rates:
            raise GridError(
                f"conf/rates/{place[0]}.yaml: no learning rates for {place[1]}, which {self.name}"
                " needs"
            )
        run = adjusted({**point, **self.select}, self.where)
        return [{**run, key: f"{rate:g}"} for rate in self.rates[place]]


def overrides(text: str) -> Point:
    """Read overrides, such as "model=opt-13b precision=bf16", as a point of the grid."""
    pairs = [part.partition("=") for part in text.split()]
    if not all(key and equals for key, equals, _ in pairs):
        raise GridError(f"{text!r}: overrides are of the form key=value key=value")
    return {key: value for key, _, value in pairs}


def names(conf: Path = CONF) -> list[str]:
    """Every artefact that has runs, in the order of their numbers."""
    return sorted(
        (file.stem for file in (conf / "sweep").glob("*.yaml")), key=lambda name: (len(name), name)
    )


def read(name: str, conf: Path = CONF) -> dict[str, Any]:
    """The `sweep` node of an artefact's file."""
    file = conf / "sweep" / f"{name}.yaml"
    if name not in names(conf):
        raise GridError(f"sweep={name}: no such artefact; {', '.join(names(conf))} are valid")
    try:
        text = read_text(file)
        check(text, file)
    except ConfigError as error:
        raise GridError(str(error)) from error
    return read_yaml(text)["sweep"]


def load(name: str, profile: str, conf: Path = CONF) -> Grid:
    """The grid of an artefact in a profile.

    Raises:
        GridError: no such artefact or profile, or a file that cannot be used.
    """
    return parse(read(name, conf), profile, conf)


def parse(node: Mapping[str, Any], profile: str, conf: Path = CONF) -> Grid:
    """The grid of a `sweep` node; see `load`."""
    if profile not in node["profiles"]:
        raise GridError(
            f"sweep.profile={profile}: {node['name']} has {', '.join(node['profiles'])}"
        )
    own = node["profiles"][profile]
    axes = {**node.get("axes", {}), **own.get("axes", {})}
    settings = tuple(overrides(item) for item in axes["settings"])
    without = [overrides(item) for item in (*node.get("without", ()), *own.get("without", ()))]
    fixed = overrides(own["fixed"])
    where = tuple((overrides(k), overrides(v)) for k, v in node.get("where", {}).items())
    points = [
        adjusted(merge([fixed, *choice]), where)
        for choice in itertools.product(*([*map(overrides, axis)] for axis in axes.values()))
    ]
    points = [point for point in points if not any(holds(point, gap) for gap in without)]
    select = own.get("select", node.get("select"))
    criterion = own.get("criterion", node.get("criterion", CRITERIA[0]))
    if criterion not in CRITERIA:
        raise GridError(f"sweep.criterion={criterion}: must be one of {', '.join(CRITERIA)}")
    return Grid(
        node["name"],
        profile,
        tuple(points),
        None if select is None else overrides(select),
        rates_of(map(trained, points), conf),
        settings,
        conf,
        where,
        criterion,
        own.get("grows", node.get("grows", False)),
        overrides(first) if (first := node.get("first")) else None,
    )


def merge(parts: Iterable[Point]) -> Point:
    return {key: value for part in parts for key, value in part.items()}


def adjusted(point: Point, where: Iterable[tuple[Point, Point]]) -> Point:
    """The point with what every run of its values has."""
    return merge([point, *(more for values, more in where if holds(point, values))])


def holds(point: Point, part: Mapping[str, str]) -> bool:
    """True where the point has all of the part's values."""
    return all(point.get(key) == value for key, value in part.items())


def trained(point: Point) -> str:
    """What the rates of a point are for: its model, and the tuning where not all of the model
    trains."""
    tuning = point.get("tuning", "full")
    return point["model"] if tuning == "full" else f"{point['model']}+{tuning}"


def rates_of(models: Iterable[str], conf: Path = CONF) -> dict[tuple[str, str], tuple[float, ...]]:
    """(model, optimizer) -> the learning rates of conf/rates/<model>.yaml, each once, the greatest
    first."""
    found: dict[tuple[str, str], tuple[float, ...]] = {}
    for model in set(models):
        file = conf / "rates" / f"{model}.yaml"
        content: dict[str, Sequence[float]] = read_yaml(file.read_text()) if file.is_file() else {}
        for optimizer, rates in content.items():
            found[model, optimizer] = tuple(sorted({float(rate) for rate in rates}, reverse=True))
    return found


def next_rate(rate: float, up: bool) -> float:
    """The next of 1, 3, 10, 30, ... times a power of ten, or the one before."""
    exponent = math.floor(math.log10(rate))
    ladder = [float(f"{lead}e{e}") for e in range(exponent - 2, exponent + 3) for lead in (1, 3)]
    if up:
        return min(step for step in ladder if step > rate * (1 + 1e-9))
    return max(step for step in ladder if step < rate * (1 - 1e-9))


@cache
def rate_key(optimizer: str, conf: Path = CONF) -> str:
    """Where the learning rate of an optimizer stands: a first-order one has it in its algorithm."""
    content = read_yaml((conf / "optimizer" / f"{optimizer}.yaml").read_text(encoding="utf-8"))
    return "optimizer.lr" if "lr" in content else "optimizer.algorithm.lr"
