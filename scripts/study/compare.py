"""Comparison of records: a table of them, and a figure of their losses against forward passes.

    python -m scripts.study.compare                          # all of results/records/single
    python -m scripts.study.compare --records DIR FILE ...   # others

It reads records alone, and loads neither torch nor Hydra.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from rich.console import Console
from rich.table import Table

from experiments.records.passes import passes_of
from experiments.records.record import RecordError
from experiments.records.store import PACKED, SINGLE, load_all
from scripts.figures.style import COLOURS, bare


def name_of(record: dict[str, Any]) -> str:
    return str(record["choices"].get("optimizer", "-"))


def title_of(record: dict[str, Any]) -> str:
    return f"{record['choices'].get('model', '-')} on {record['choices'].get('task', '-')}"


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def table_of(records: Sequence[dict[str, Any]]) -> Table:
    """Build a table with one row for each record, sorted by setting, optimizer and seed; what is
    missing prints as `-`. Where a backward or forward-mode pass was taken, a column says how many
    forward passes all of it was worth."""
    settings = {title_of(record) for record in records}
    kinds = {record["peak_memory_kind"] for record in records if record["peak_memory_kind"]}
    memory = f"peak memory: {', '.join(sorted(kinds)).replace('_', ' ')}"
    table = Table(
        box=None, pad_edge=False, title_justify="left", title=", ".join([*settings, memory][-2:])
    )
    if len(settings) > 1:
        table.title = memory
        table.add_column("setting", no_wrap=True)
    table.add_column("optimizer", no_wrap=True)
    differ = any(passes_of(record) != record["num_forwards"] for record in records)
    headings = ["seed", "zero-shot %", "test %", "forwards", "seconds", "peak MB", "status"]
    if differ:
        headings.insert(4, "passes")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for record in sorted(
        records, key=lambda r: (title_of(r), name_of(r), r["config"].get("seed", 0))
    ):
        peak = record["peak_memory_bytes"]
        cells = [
            name_of(record),
            str(record["config"].get("seed", "-")),
            percent(record["zero_shot_accuracy"]),
            percent(record["test_accuracy"]),
            f"{record['num_forwards']:,}",
            *([f"{passes_of(record):,.0f}"] if differ else []),
            f"{record['train_seconds']:.1f}",
            "-" if peak is None else f"{peak / 1e6:,.0f}",
            record["status"],
        ]
        table.add_row(*([title_of(record)] if len(settings) > 1 else []), *cells)
    return table


def draw(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw training loss against passes: one panel for each setting, one colour for each
    optimizer, one line for each seed."""
    settings = sorted({title_of(record) for record in records})
    names = sorted({name_of(record) for record in records})
    colours = {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(names)}
    figure, panels = plt.subplots(
        1,
        len(settings),
        figsize=(5.2 * len(settings) + 0.8, 3.8),
        squeeze=False,
        layout="constrained",
    )
    for panel, setting in zip(panels[0], settings, strict=True):
        labelled: set[str] = set()
        for record in sorted((r for r in records if title_of(r) == setting), key=name_of):
            points = [point for point in record["curve"] if point["train_loss"] is not None]
            name = name_of(record)
            panel.plot(
                [passes_of(record, point) for point in points],
                [point["train_loss"] for point in points],
                color=colours[name],
                linewidth=1.6,
                label=None if name in labelled else name,
            )
            labelled.add(name)
        bare(panel).set(title=setting, xlabel="passes", ylabel="training loss")
        panel.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, metadata={"Software": "scripts/study/compare.py"})
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Records side by side: a table and a figure.")
    parser.add_argument(
        "--records",
        nargs="+",
        type=Path,
        default=[PACKED / SINGLE],
        help="folders or files of records (default: results/records/single)",
    )
    parser.add_argument(
        "--figure",
        type=Path,
        help="where the PNG goes (default: figures/compare.png beside the records)",
    )
    options = parser.parse_args(arguments)
    try:
        records = load_all(options.records)
    except RecordError as error:
        print(error, file=sys.stderr)
        return 1
    if not records:
        print(f"no records in {', '.join(map(str, options.records))}", file=sys.stderr)
        return 1
    first = options.records[0]
    figure = (
        options.figure
        or (first.parent if first.is_dir() else first.parent.parent) / "figures" / "compare.png"
    )
    console = Console()
    console.width = max(console.width, 100)  # a cut number is worse than a wrapped line
    console.print(table_of(records))
    draw(records, figure)
    print(f"loss against forward passes: {figure}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
