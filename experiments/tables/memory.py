"""Bytes at the peak of a step by tuning scheme, from what `scripts/bench_memory.py` has left."""

import json
from pathlib import Path

from experiments.tables.layout import Section
from experiments.tables.measured import BENCH
from experiments.tables.names import MODELS, shown

NOTE = ("MiB beyond the parameters at the peak of a step, counted from the allocator's events: activations, tangents,"
        " gradients, state and what a step needs for a moment (AdamW's and ZO-Adam's peak on all of the model is in"
        " their update). {model}'s shape, {dtype}, {batch} rows of {length} tokens, random weights.")  # fmt: skip


def by_scheme(file: Path = BENCH / "memory.json") -> list[Section]:
    """A row a method, a column a scheme; none where nothing was measured."""
    if not file.is_file():
        return []
    report = json.loads(file.read_text(encoding="utf-8"))
    setting, schemes = report["setting"], report["schemes"]
    methods = dict.fromkeys(method for scheme in schemes.values() for method in scheme["bytes"])
    rows = [("trained parameters", *(f"{scheme['trained']:,}" for scheme in schemes.values()))]
    rows += [(method, *(_mebi(scheme["bytes"].get(method)) for scheme in schemes.values())) for method in methods]
    note = NOTE.format(**{**setting, "model": shown({**MODELS, "opt-125m": "OPT-125M"}, setting["model"])})
    return [Section("Memory of first-order, forward-gradient and zeroth-order methods", ("method", *schemes),
                    tuple(rows), notes=(note,))]  # fmt: skip


def _mebi(value: int | None) -> str:
    return "-" if value is None else f"{value / 2**20:,.1f}"
