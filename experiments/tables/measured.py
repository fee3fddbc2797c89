"""Table 4 and Figure 2: peak memory and time of a step, the paper's on its GPU beside the
benchmark's JSON."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.records.store import left_out
from experiments.sweeps.names import MODELS, shown
from experiments.sweeps.paper import StepCost, StepCosts, step_costs
from experiments.tables.artefacts import Artefact
from experiments.tables.inputs import Inputs
from experiments.tables.layout import Section
from experiments.tables.sources import MEASURED

BENCH = MEASURED / "bench"
DTYPES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}


@dataclass(frozen=True)
class Measured:
    """One method on one model: the published procedure and ours, in 1e9 bytes and milliseconds;
    None: not measured.

    Attributes:
        card: the GPU's name, or the CPU's.
        gpu: the peak is that of the GPU's allocator; else the process's resident set, libraries
            included.
        forwards_ms: the bare forward passes of ours alone.
        bytes_ms: what ours must move beside them, over the bandwidth of a copy in the same run.
        shape: batch and repeats, in words.
    """

    model: str
    precision: str
    method: str
    card: str
    gpu: bool
    shape: str
    published_gb: float | None
    ours_gb: float | None
    published_ms: float | None
    ours_ms: float | None
    forwards_ms: float | None = None
    bytes_ms: float | None = None


def measured(folder: Path | None = None) -> tuple[list[Measured], list[str]]:
    """Everything that `make bench` has left, of every model and device; a line for each file that
    is left out."""
    rows, problems = [], []
    for file in sorted((folder or BENCH).glob("*-*-*.json")):
        try:
            rows += _rows(
                json.loads(file.read_text(encoding="utf-8")), gpu=file.stem.endswith("-cuda")
            )
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            problems.append(
                f"{file.name}: not a report of scripts.bench.step ({type(error).__name__}: {error})"
            )
    return rows, problems


def _rows(report: dict, gpu: bool) -> list[Measured]:
    setting, memory = report["setting"], report["memory"] or {}
    a_second = report.get("bandwidth", {}).get("bytes_per_second")
    shape = f"batch {setting['batch']} x {setting['length']} tokens, {setting['repeats']} repeats"
    rows = []
    for method, times in report["steps"].items():
        peak = memory.get(method, {})
        rows.append(
            Measured(
                shown(MODELS, setting["model"]),
                DTYPES[setting["dtype"]],
                method,
                str(report["machine"]["device"]),
                gpu,
                shape,
                _scaled(peak.get("published"), 1e-9),
                _scaled(peak.get("ours"), 1e-9),
                _scaled(times.get("published", {}).get("median"), 1e3),
                _scaled(times["ours"]["median"], 1e3),
                _scaled(times.get("forwards", {}).get("median"), 1e3),
                _scaled(times.get("bytes"), 1e3 / a_second) if a_second else None,
            )
        )
    return rows


def _scaled(value: float | None, by: float) -> float | None:
    return None if value is None else by * value


def sections(artefact: Artefact, inputs: Inputs) -> list[Section]:
    """Table 4."""
    del artefact, inputs  # it shows no run's record
    return table4()


def table4(folder: Path | None = None) -> list[Section]:
    """The paper's settings, memory and time; whatever else was measured; and how near its ceilings
    each step is."""
    rows, problems = measured(folder)
    theirs, wrong = step_costs()
    ours = [row for row in rows if row.gpu and (row.model, row.precision) in theirs]
    others = [row for row in rows if row not in ours]
    return [
        _beside(
            "Peak memory on a GPU, GB (1e9 bytes)",
            theirs,
            ours,
            lambda cell: cell.gb,
            lambda row: (row.published_gb, row.ours_gb),
            _MEMORY,
            *left_out([*wrong, *problems]),
        ),
        _beside(
            "Time of a step on a GPU, ms",
            theirs,
            ours,
            lambda cell: cell.ms,
            lambda row: (row.published_ms, row.ours_ms),
            f"{_TIME}{_shapes(ours)}",
        ),
        *([_elsewhere(others)] if others else []),
        *([_ceilings(rows)] if any(row.forwards_ms for row in rows) else []),
    ]


_MEMORY = (
    "The paper's: one H200. Ours: the most that CUDA's allocator held in three steps; weights are"
    " random, of the model's shape. `-`: not measured."
)
_TIME = "The paper does not print how long its rows are, so that its times and ours need not agree."


def _shapes(rows: Iterable[Measured]) -> str:
    shapes = "; ".join(dict.fromkeys(row.shape for row in rows))
    return f" Here: medians, {shapes}." if shapes else ""


def _beside(
    title: str,
    theirs: StepCosts,
    ours: Sequence[Measured],
    of: Callable[[StepCost], float],
    values: Callable[[Measured], tuple[float | None, float | None]],
    *notes: str,
) -> Section:
    """The paper's numbers, the published procedure and ours as measured here, and their ratios."""
    here = {(row.model, row.precision, row.method): row for row in ours}
    rows = []
    for setting, methods in theirs.items():
        own = [method for model, precision, method in here if (model, precision) == setting]
        for method in dict.fromkeys((*methods, *own)):
            row = here.get((*setting, method))
            published, mine = values(row) if row else (None, None)
            given = of(methods[method]) if method in methods else None
            as_printed = "-" if given is None else f"{given:.1f}"
            rows.append(
                (
                    *setting,
                    method,
                    as_printed,
                    text(published),
                    text(mine),
                    ratio(published, given),
                    ratio(mine, published),
                    row.card if row else "-",
                )
            )
    columns = (
        "model",
        "precision",
        "method",
        "paper",
        "as published",
        "ours",
        "as published / paper",
        "ours / as published",
        "our card",
    )
    return Section(title, columns, tuple(rows), notes=notes)


def _elsewhere(rows: Sequence[Measured]) -> Section:
    """Models and devices that the paper has not."""
    lines = [
        (
            row.model,
            row.precision,
            row.method,
            text(row.published_gb),
            text(row.ours_gb),
            text(row.published_ms),
            text(row.ours_ms),
            ratio(row.ours_ms, row.published_ms),
            row.card + ("" if row.gpu else " (resident set)"),
        )
        for row in rows
    ]
    columns = (
        "model",
        "precision",
        "method",
        "peak GB, as published",
        "peak GB, ours",
        "ms, as published",
        "ms, ours",
        "ms, ours / as published",
        "measured on",
    )
    about = f"Random weights.{_shapes(rows)}"
    about += " A resident set holds the libraries, too." if any(not row.gpu for row in rows) else ""
    return Section("Other models and machines", columns, tuple(lines), notes=(about,))


def _ceilings(rows: Sequence[Measured]) -> Section:
    """The forward passes, which no engine passes, and beside them what moving the bytes would take
    at a copy's rate."""
    lines = []
    for row in rows:
        moved = row.forwards_ms + row.bytes_ms if row.forwards_ms and row.bytes_ms else None
        lines.append(
            (
                row.model,
                row.precision,
                row.method,
                ratio(row.ours_ms, row.forwards_ms),
                ratio(moved, row.forwards_ms),
                ratio(row.published_ms, row.ours_ms),
                ratio(row.published_ms, row.forwards_ms),
                ratio(row.published_ms, moved),
                row.card,
            )
        )
    columns = (
        "model",
        "precision",
        "method",
        "ours / its forward passes",
        "by bytes",
        "as published / ours",
        "by forward passes",
        "by bytes",
        "measured on",
    )
    return Section(
        "A step, its forward passes and its bytes", columns, tuple(lines), notes=(_CEILINGS,)
    )


_CEILINGS = (
    "By forward passes, the first is 1.00 at best. Bytes: the parameters read and written once a"
    " perturbed pass and once for the update, at the rate of a plain copy in the same run (80 MB,"
    " too little for a GPU's full rate), a yardstick and no bound; an embedding's rows that nobody"
    " looks up come off, what a method keeps comes on top."
)


def text(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if value < 10 else f"{value:,.1f}"


def ratio(of: float | None, to: float | None) -> str:
    return f"{of / to:.2f}" if of and to else "-"
