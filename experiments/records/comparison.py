"""Comparison of two records of one configuration: what should agree, and how closely.

Where code, versions and hardware are the same, every number should be the same to the bit.
Elsewhere counts should be the same, and scores and losses close.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

EXACT = ("status", "num_steps", "num_forwards", "num_backwards")  # on every machine
SCORES = ("zero_shot_accuracy", "validation_accuracy", "test_accuracy")
POINT = ("train_loss", "validation_accuracy", "validation_loss", "noise_var", "gain")
MACHINE = ("device", "cpu", "instructions", "widened", "gpu", "torch_threads")
# Where code, versions or hardware differ, losses differ in their last bits, and the model answers
# a few rows differently, on which its scores are almost tied.
SCORE_TOLERANCE, LOSS_TOLERANCE = 0.02, 0.02


@dataclass(frozen=True)
class Line:
    """One line of the comparison: a quantity, its value in both records, and whether they agree."""

    what: str
    there: str
    here: str
    equal: bool


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """A line for each difference in code, versions, hardware or number of processes between the
    provenances of two runs."""
    pairs = [
        (f"version of {name}", there["versions"].get(name), here["versions"].get(name))
        for name in sorted(there["versions"].keys() | here["versions"].keys())
    ]
    pairs += [(name, there["hardware"].get(name), here["hardware"].get(name)) for name in MACHINE]
    sizes = [side.get("parallel", {}).get("world_size", 1) for side in (there, here)]
    commits = [
        f"{str(side.get('commit'))[:10]}{' (dirty)' if side.get('dirty') else ''}"
        for side in (there, here)
    ]
    pairs += [("commit", *commits)]
    pairs += [("processes", *sizes), ("byte order", there["byte_order"], here["byte_order"])]
    return [f"{name}: {a} there, {b} here" for name, a, b in pairs if a != b]


def comparison(
    there: Mapping[str, Any], here: Mapping[str, Any], *, bitwise: bool
) -> Iterator[Line]:
    """A line for each quantity in which two records of one configuration should agree.

    Args:
        bitwise: whether every number must be the same, because code, versions and hardware are.
            Otherwise counts must be the same, and scores and losses agree within their tolerances.
    """

    def line(what: str, a: Any, b: Any, relative: float = 0.0, absolute: float = 0.0) -> Line:
        near = a == b or (not bitwise and _near(a, b, relative, absolute))
        return Line(what, _short(a), _short(b), near)

    for key in EXACT:
        yield line(key, there[key], here[key])
    yield line("rows", there["data"].get("fingerprints"), here["data"].get("fingerprints"))
    yield line("base weights", there["model"].get("fingerprint"), here["model"].get("fingerprint"))
    for key in SCORES:
        yield line(key, there[key], here[key], absolute=SCORE_TOLERANCE)
    yield line("points of the curve", _column(there, "step"), _column(here, "step"))
    for key in POINT:
        if key == "validation_loss" and not all(
            key in point for side in (there, here) for point in side["curve"]
        ):
            continue  # one of them was written before records had it
        # a score's tolerance is in its own unit; a loss or a variance may itself be small
        near = {"absolute": SCORE_TOLERANCE} if key in SCORES else {"relative": LOSS_TOLERANCE}
        yield line(f"curve: {key}", _column(there, key), _column(here, key), **near)
    if bitwise:
        yield line("warnings", _counts(there), _counts(here))
        yield line("best_step", there["best_step"], here["best_step"])


def _counts(record: Mapping[str, Any]) -> dict[str, int]:
    """How often a run warned of what."""
    return {kind: warning["count"] for kind, warning in sorted(record["warnings"].items())}


def _column(record: Mapping[str, Any], key: str) -> list[Any]:
    return [point.get(key) for point in record["curve"]]


def _near(a: Any, b: Any, relative: float, absolute: float) -> bool:
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(
            _near(x, y, relative, absolute) for x, y in zip(a, b, strict=True)
        )
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return math.isclose(a, b, rel_tol=relative, abs_tol=absolute)
    return a == b


def _short(value: Any) -> str:
    text = (
        f"{value[0]} ... {value[-1]}" if isinstance(value, list) and len(value) > 2 else str(value)
    )
    return text if len(text) <= 44 else f"{text[:41]}..."
