"""Table 4 and Figure 2: peak memory and time of a step, the paper's on its GPU beside the benchmark's JSON."""

import json
from dataclasses import dataclass
from pathlib import Path

from experiments.tables.layout import Section
from experiments.tables.names import MODELS, shown
from experiments.tables.sources import paper_table

BENCH = Path(__file__).resolve().parents[2] / "results" / "bench"
DTYPES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}


@dataclass(frozen=True)
class Measured:
    """One method on one model: ours and the published procedure, in GB and milliseconds; None where not measured."""

    model: str
    precision: str
    method: str
    device: str
    ours_gb: float | None
    ours_ms: float
    published_gb: float | None
    published_ms: float


def measured(folder: Path = BENCH) -> list[Measured]:
    """Everything that `make bench` has left, of every model and device."""
    found = []
    for file in sorted(folder.glob("*-*-*.json")):
        report = json.loads(file.read_text(encoding="utf-8"))
        setting, memory = report["setting"], report["memory"] or {}
        for method, times in report["steps"].items():
            bytes_of = memory.get(method, {})
            found.append(Measured(
                shown(MODELS, setting["model"]), DTYPES[setting["dtype"]], method,
                f"{report['machine']['device']}{'' if file.stem.endswith('cuda') else ' (CPU, resident set)'}",
                _giga(bytes_of.get("ours")), 1e3 * times["ours"]["median"],
                _giga(bytes_of.get("published")), 1e3 * times["published"]["median"]))  # fmt: skip
    return found


def _giga(value: float | None) -> float | None:
    return None if value is None else value / 1e9


def printed() -> list[dict[str, str]]:
    """The paper's rows."""
    return paper_table("table4", ("model", "precision", "method", "peak_memory_gb", "step_time_ms"))


def table4() -> list[Section]:
    """The paper's settings first, then whatever else was measured."""
    ours = {(row.model, row.precision, row.method): row for row in measured() if "CPU" not in row.device}
    rows = []
    for paper in printed():
        own = ours.get((paper["model"], paper["precision"], paper["method"]))
        rows.append((paper["model"], paper["precision"], paper["method"], paper["peak_memory_gb"],
                     _text(own and own.ours_gb), paper["step_time_ms"], _text(own and own.ours_ms)))  # fmt: skip
    note = ("Ours: none of these was measured; it takes a GPU." if not ours else
            f"Ours: {', '.join(sorted({row.device for row in ours.values()}))}, random weights.")  # fmt: skip
    numbers = ("peak GB (paper)", "peak GB (ours)", "ms a step (paper)", "ms a step (ours)")
    columns = ("model", "precision", "method", *numbers)
    return [Section("The paper's settings, one H200", columns, tuple(rows), notes=(note,)), *_others()]


def _others() -> list[Section]:
    """Models and devices that the paper has not."""
    there = {(paper["model"], paper["precision"]) for paper in printed()}
    rows = [(row.model, row.precision, row.method, _text(row.published_gb), _text(row.ours_gb), _text(row.published_ms),
             _text(row.ours_ms)) for row in measured()
            if "CPU" in row.device or (row.model, row.precision) not in there]  # fmt: skip
    if not rows:
        return []
    devices = sorted({row.device for row in measured()})
    columns = ("model", "precision", "method", "peak GB (as published)", "peak GB (ours)", "ms a step (as published)",
               "ms a step (ours)")  # fmt: skip
    note = f"{', '.join(devices)}; random weights; `make bench`, medians."
    return [Section("Measured elsewhere", columns, tuple(rows), notes=(note,))]


def _text(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if value < 10 else f"{value:,.1f}"
