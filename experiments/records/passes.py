"""The work of a run in forward passes (see `bszo.costs`), so that first-order methods stand on the
same axis."""

from collections.abc import Mapping
from typing import Any

from bszo.costs import BACKWARD, FORWARD_MODE

OWN = {"bszo.ForwardGrad": FORWARD_MODE}  # what one pass of these methods counts


def weight(record: Mapping[str, Any]) -> float:
    """How many passes one forward pass of the run counts as, with its share of the backward
    passes."""
    return _worth(record, record["num_forwards"]) / max(1, record["num_forwards"])


def passes_of(record: Mapping[str, Any], at: Mapping[str, Any] | None = None) -> float:
    """Passes of the run until a point of its curve; without one, all of its training."""
    return _worth(record, (record if at is None else at)["num_forwards"])


def _worth(record: Mapping[str, Any], forwards: int) -> float:
    """What so many of the run's forward passes are worth, with their share of the others."""
    if own := OWN.get(record["config"].get("optimizer", {}).get("_target_")):
        return own * forwards
    every = max(1, record["num_forwards"])
    # one division at the end, so that whole numbers stay whole
    return forwards * (record["num_forwards"] + BACKWARD * record["num_backwards"]) / every


def taken(optimizer: Any) -> int:
    """What an optimizer's passes have cost so far; those of a method of someone else's that does
    not say count as one each."""
    return getattr(optimizer, "num_passes", optimizer.num_forwards)
