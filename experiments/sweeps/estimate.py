"""Estimate of what a run takes: forward passes, seconds, memory, and where the numbers come from.

Forward passes are counted by taking one step on a toy network. Seconds are those that a forward
pass took in records of such runs, with evaluation and start added. Where there are no such records,
the paper's Table 4 has milliseconds a step.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from hydra.utils import instantiate
from omegaconf import OmegaConf

from experiments import CONF
from experiments.config.compose import compose
from experiments.config.yaml_files import read_yaml
from experiments.records.passes import taken
from experiments.records.record import Record
from experiments.sweeps.grid import Point, rate_key
from experiments.sweeps.matching import shipped_node, value_of
from experiments.sweeps.names import METHODS, MODELS, shown
from experiments.sweeps.paper import StepCost, step_costs

LIKE = (  # what a record must share with a run, the closest first, and what is said of the others
    (("model", "precision", "optimizer", "protocol"), ""),
    (("model", "precision", "protocol"), " of other methods"),
    (("model", "protocol"), " in other precisions"),
)


@cache
def a_step(optimizer: str, more: tuple[str, ...]) -> tuple[int, int]:
    """Loss evaluations of one step, and what its passes cost (see `bszo.costs`), counted on one
    small matrix."""
    import torch

    node = compose([f"optimizer={optimizer}", *more])["optimizer"]
    toy = torch.nn.Linear(4, 4, bias=False)
    made = instantiate(OmegaConf.create(node))(toy.parameters(), module=toy)
    axes = 1 if made.per_example else (0, 1)
    made.step(lambda: toy(torch.ones(1, 4)).square().sum(axes))
    return made.num_forwards, taken(made)


def protocol_of(point: Point) -> dict[str, Any]:
    """The protocol's values, with the point's own."""
    shipped = shipped_node(CONF / "protocol" / f"{point['protocol']}.yaml")
    own = {
        key.partition(".")[2]: read_yaml(value)
        for key, value in point.items()
        if key.startswith("protocol.")
    }
    return {**shipped, **own}


def forwards_of(point: Point) -> int:
    """Forward passes of a run's training that does not stop early; block-wise: of one block."""
    forwards, cost = a_step(
        point["optimizer"],
        tuple(
            f"{key}={value}"
            for key, value in sorted(point.items())
            if key.startswith("optimizer.") and key != rate_key(point["optimizer"])
        ),
    )
    protocol = protocol_of(point)
    most, limit = protocol["num_steps"] * forwards, protocol["max_forwards"]
    return most if limit is None else min(most, limit * forwards // cost)


@dataclass(frozen=True)
class Pace:
    """How long records took.

    Attributes:
        a_forward: seconds of training a forward pass, the median.
        beside: seconds of evaluation a run, the median.
        count: of the records.
    """

    a_forward: float
    beside: float
    count: int


class Clock:
    """Tells how long runs take.

    Args:
        records: what was run before.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = [
            record for record in records if record["status"] == "ok" and record["num_forwards"]
        ]
        self._paces: dict[tuple[str, ...], Pace | None] = {}
        starts = [
            seconds - record["train_seconds"] - record["evaluation_seconds"]
            for record in self.records
            if (seconds := record["provenance"].get("seconds")) and record["num_parts"] == 1
        ]
        # composing, building, writing: of any model
        self.start = statistics.median(starts) if starts else 0.0

    def seconds(self, point: Point) -> tuple[float | None, str]:
        """Seconds of one run, None where there is nothing to go by; and where they come from."""
        for groups, words in LIKE:
            pace = self._pace(groups, point)
            if pace:
                return (
                    pace.a_forward * forwards_of(point) + pace.beside + self.start,
                    f"{pace.count} records{words}",
                )
        printed = paper_cell(point)
        if printed is None:
            return None, "nothing to go by"
        return printed.ms / 1e3 * protocol_of(point)["num_steps"], "Table 4, without evaluation"

    def _pace(self, groups: Sequence[str], point: Point) -> Pace | None:
        key = tuple(point[group] for group in groups)
        if key not in self._paces:
            alike = [
                record
                for record in self.records
                if all(value_of(record, group) == point[group] for group in groups)
            ]
            self._paces[key] = (
                Pace(
                    statistics.median(
                        record["train_seconds"] / record["num_forwards"] for record in alike
                    ),
                    statistics.median(record["evaluation_seconds"] for record in alike),
                    len(alike),
                )
                if alike
                else None
            )
        return self._paces[key]


def paper_cell(point: Point) -> StepCost | None:
    """The row of the paper's Table 4 for a run, None where it has none: the table is of full
    tuning, each model in fp32 or in 16 bits."""
    if point.get("tuning", "full") != "full":
        return None
    return _printed_cell(
        shown(MODELS, point["model"]), point["precision"], shown(METHODS, point["optimizer"])
    )


@cache  # a plan asks twice a run
def _printed_cell(model: str, precision: str, method: str) -> StepCost | None:
    return next(
        (
            methods[method]
            for (name, printed), methods in step_costs()[0].items()
            if name == model and (printed == "fp32") == (precision == "fp32") and method in methods
        ),
        None,
    )


def memory_of(point: Point) -> str:
    """The peak memory that the paper prints for such a step, in GB."""
    printed = paper_cell(point)
    return "-" if printed is None else f"{printed.gb:.1f} (Table 4)"
