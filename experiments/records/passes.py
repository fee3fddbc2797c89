"""The work of a run in forward passes (see `bszo.costs`), so that first-order methods stand on the
same axis."""

from collections.abc import Mapping
from typing import Any

from bszo.costs import BACKWARD, FORWARD_MODE

OWN = {"forward-grad": FORWARD_MODE}  # what one pass of these methods counts


def weight(record: Mapping[str, Any]) -> float:
    """How many passes one forward pass of the run counts as, with its share of the backward
    passes."""
    if own := OWN.get(record["choices"].get("optimizer")):
        return own
    forwards = record["num_forwards"]
    return 1 + BACKWARD * record["num_backwards"] / forwards if forwards else 1


def passes_of(record: Mapping[str, Any], at: Mapping[str, Any] | None = None) -> float:
    """Passes of the run until a point of its curve; without one, all of its training."""
    return weight(record) * (record if at is None else at)["num_forwards"]


def taken(optimizer: Any) -> int:
    """What an optimizer's passes have cost so far; those of a method of someone else's that does
    not say count as one each."""
    return getattr(optimizer, "num_passes", optimizer.num_forwards)
