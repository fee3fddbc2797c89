"""Bytes at the peak of a step by tuning scheme, as `scripts.bench.memory` has measured them."""

import json
from pathlib import Path
from typing import Any

from experiments.records.store import left_out
from experiments.sweeps.names import MODELS, shown
from experiments.tables.layout import Section
from experiments.tables.measured import BENCH

FILE = BENCH / "memory.json"
TITLE = "Memory of first-order, forward-gradient and zeroth-order methods"
NOTE = (
    "MiB beyond the parameters at the peak of a step, counted from the allocator's events:"
    " activations, tangents, gradients, state and what a step needs for a moment (AdamW's and"
    " ZO-Adam's peak on all of the model is in their update). {model}'s shape, {dtype}, {batch}"
    " rows of {length} tokens, random weights."
)


def report(file: Path = FILE) -> tuple[dict[str, Any], list[str]]:
    """Return what was measured, empty where nothing was, and a line about a file that is left
    out."""
    if not file.is_file():
        return {}, []
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        NOTE.format(**found["setting"])
        for scheme in found["schemes"].values():
            sum([scheme["trained"], *scheme["bytes"].values()])  # numbers all of them
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        return {}, [
            f"{file.name}: not a report of scripts.bench.memory ({type(error).__name__}: {error})"
        ]
    return found, []


def by_scheme(file: Path = FILE) -> list[Section]:
    """Build a section with one row for each method and one column for each scheme; none where
    nothing was measured."""
    found, problems = report(file)
    if not found:
        return [Section(TITLE, ("method",), (), notes=left_out(problems))] if problems else []
    setting, schemes = found["setting"], found["schemes"]
    methods = dict.fromkeys(method for scheme in schemes.values() for method in scheme["bytes"])
    rows = [("trained parameters", *(f"{scheme['trained']:,}" for scheme in schemes.values()))]
    rows += [
        (method, *(_mebi(scheme["bytes"].get(method)) for scheme in schemes.values()))
        for method in methods
    ]
    note = NOTE.format(
        **{**setting, "model": shown({**MODELS, "opt-125m": "OPT-125M"}, setting["model"])}
    )
    return [Section(TITLE, ("method", *schemes), tuple(rows), notes=(note,))]


def _mebi(value: int | None) -> str:
    return "-" if value is None else f"{value / 2**20:,.1f}"
