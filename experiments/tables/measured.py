"""Costs of a step (Table 4 and Figure 2): peak memory and time, the paper's on its GPU beside those
that the benchmark measured."""

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
    """One method on one model, as published and in this library, in 1e9 bytes and milliseconds.

    Attributes:
        card: the name of the GPU, or of the CPU.
        gpu: True where the peak is that of the GPU's allocator; otherwise it is the resident set of
            the process, which includes its libraries.
        shape: batch and repeats, in words.
        published_gb, ours_gb: peak memory; None where it was not measured.
        published_ms, ours_ms: time of a step; None where it was not measured.
        forwards_ms: time of our forward passes alone.
        bytes_ms: time of moving the bytes that our step must move besides, at the bandwidth of a
            copy in the same run.
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
    """Return one row for each method, model and device that the benchmark has measured, and one
    line for each file that is left out."""
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
    """Build Table 4."""
    del artefact, inputs  # it shows no run's record
    return table4()


def table4(folder: Path | None = None) -> list[Section]:
    """Build the sections: memory and time in the paper's settings, what else was measured, and how
    near each step is to its ceilings."""
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
    """Compare the paper's numbers with the published procedure and this library, both measured
    here."""
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
    """List the models and devices that the paper does not have."""
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
    """Compare each step with its forward passes, which no engine can avoid, and with the time that
    moving its bytes takes at the rate of a copy."""
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
        "the same, by bytes",
        "as published / ours",
        "at best, by forward passes",
        "at best, by bytes",
        "measured on",
    )
    return Section(
        "A step, its forward passes and its bytes", columns, tuple(lines), notes=(_CEILINGS,)
    )


_CEILINGS = (
    "By forward passes, the first is 1.00 at best. Bytes: the parameters read and written once a"
    " perturbed pass and once for the update, at the rate of a plain copy in the same run, a"
    " yardstick and no bound; an embedding's rows that nobody looks up come off, what a method"
    " keeps comes on top."
)


def text(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if value < 10 else f"{value:,.1f}"


def ratio(of: float | None, to: float | None) -> str:
    return f"{of / to:.2f}" if of and to else "-"
