"""Is the low-precision gap the walk? Drift at lr 0, and the methods as published against exact restoration.

    python scripts/table_walk.py       # -> results/tables/table_walk.*, results/figures/figure_drift.png, .pdf

From results/walk/*.json (`scripts/walk_drift.py`) and the records of runs in 16 bits. Loads neither torch nor Hydra.
The runs: python -m experiments.run --multirun optimizer=mezo,lozo,hizoo,bszo precision=bf16,fp16,bf16-sr
fidelity.perturbation=as-published,exact seed=0,1,2, with the rest of `fidelity` as it is.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt
from style import COLOURS, FIGURES, bare, save

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.record import RecordError, load_all
from experiments.tables.layout import TABLES, Section, write

Row = dict[str, Any]
WALK, RUNS = FIGURES.parent / "walk", FIGURES.parent / "runs"
WALKS = ("three-leg", "two-leg", "exact")
DTYPES = {"float32": "-", "float16": "--", "bfloat16": ":"}
CURVE = ("dtype", "eps", "walk")
GROUP = ["model", "task", "precision", "method", "perturbation"]
SCORES = ["validation accuracy", "test accuracy", "first training loss", "last training loss",
          "first validation loss", "last validation loss"]  # fmt: skip


def points(folder: Path) -> list[Row]:
    """One row a point of a curve: model, dtype, eps, walk, step, drift, perplexity; in order of the steps."""
    rows = []
    for path in sorted(folder.glob("*.json")):
        report = json.loads(path.read_text(encoding="utf-8"))
        for curve in report["curves"].values():
            fixed = {"model": report["setting"]["model"], **{name: curve[name] for name in ("dtype", "eps", "walk")}}
            rows += [{**fixed, **point} for point in curve["points"]]
    return sorted(rows, key=lambda row: row["step"])


def groups(rows: Iterable[Row], names: Sequence[str]) -> Iterator[tuple[tuple[Any, ...], list[Row]]]:
    """The rows that agree in the named columns, in the order of what they agree in."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in names), []).append(row)
    yield from sorted(found.items())


def drift_section(data: Sequence[Row], model: str) -> Section:
    """The last point of every curve of a model."""
    rows = []
    for (dtype, eps, how), curve in groups((row for row in data if row["model"] == model), CURVE):
        first, last = curve[0], curve[-1]
        rows.append((dtype, f"{eps:g}", how, f"{last['step']:,}", f"{100 * last['drift']:.3g} %",
                     number(first["perplexity"]), number(last["perplexity"])))  # fmt: skip
    columns = ("dtype", "eps", "walk", "steps", "drift", "perplexity at the start", "at the end")
    note = "Drift is |theta - theta_0| / |theta_0| at lr 0. A perplexity beyond every float prints as inf."
    return Section(f"{model} at lr 0", columns, tuple(rows), notes=(note,))


def number(value: float | None) -> str:
    return "inf" if value is None else f"{value:.3g}"


def run_of(record: dict[str, Any]) -> dict[str, Any] | None:
    """A record's row; None where no walk is chosen (first-order methods)."""
    config, choices = record["config"], record["choices"]
    perturbation = config.get("optimizer", {}).get("perturbation")
    if perturbation is None:
        return None
    curve = record["curve"]
    row = {"model": choices["model"], "task": choices["task"], "precision": choices["precision"],
           "method": choices["optimizer"], "perturbation": perturbation, "status": record["status"],
           "validation accuracy": record["validation_accuracy"], "test accuracy": record["test_accuracy"]}  # fmt: skip
    for kind, key in (("training", "train_loss"), ("validation", "validation_loss")):
        losses = [point[key] for point in curve if point.get(key) is not None]
        first, last = (losses[0], losses[-1]) if losses else (None, None)
        row |= {f"first {kind} loss": first, f"last {kind} loss": last}
    return row


def run_section(records: Sequence[dict[str, Any]]) -> Section | None:
    """Means over the runs of a group that ended well; how many did not is said beside."""
    runs = [row for record in records if (row := run_of(record)) is not None and row["precision"] != "fp32"]
    if not runs:
        return None
    rows = []
    for key, group in groups(runs, GROUP):
        good = [row for row in group if row["status"] == "ok"]
        scores = [mean([row[name] for row in good], 100 if "accuracy" in name else 1) for name in SCORES]
        rows.append((*map(str, key), f"{len(good)} of {len(group)}", *scores))
    return Section("Walk as published against exact restoration", (*GROUP, "runs ok", *SCORES), tuple(rows),
                   notes=("Means over the runs that ended well; accuracies in %; - where no record has the number.",))


def mean(values: Sequence[float | None], factor: float) -> str:
    numbers = [value for value in values if value is not None]
    return f"{factor * sum(numbers) / len(numbers):.4g}" if numbers else "-"


def draw(data: Sequence[Row], folder: Path) -> list[Path]:
    """A column a model: drift above, perplexity below; colour says the walk and eps, line the type."""
    models = sorted({row["model"] for row in data})
    figure, panels = plt.subplots(2, len(models), figsize=(5.2 * len(models), 6.4), sharex=True, squeeze=False)
    kinds = [(how, eps) for how in WALKS for eps in sorted({row["eps"] for row in data})]
    for column, model in enumerate(models):
        for (dtype, eps, how), curve in groups((row for row in data if row["model"] == model), CURVE):
            colour = COLOURS[kinds.index((how, eps)) % len(COLOURS)]
            for panel, name in zip(panels[:, column], ("drift", "perplexity"), strict=True):
                # the axes are logarithmic: a curve that never moves is not on them
                drawn = [(row["step"], row[name]) for row in curve if row["step"] and row[name]]
                panel.plot(*zip(*drawn, strict=True) if drawn else ([], []), DTYPES[dtype], color=colour, lw=1.3,
                           label=f"{how}, eps {eps:g}, {dtype}")  # fmt: skip
        panels[0, column].set(title=model, ylabel="relative drift of the weights", yscale="log")
        panels[1, column].set(xlabel="steps at lr 0", ylabel="perplexity", xscale="log", yscale="log")
        for panel in panels[:, column]:
            bare(panel)
    panels[0, -1].legend(fontsize=6, loc="center left", bbox_to_anchor=(1.01, 0.0))
    figure.tight_layout()
    return save(figure, "figure_drift", "scripts/table_walk.py", folder)


def main() -> int:
    """Write the table, and the figure where a walk was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--walk", type=Path, default=WALK, help="folder of walk_drift's JSON")
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of records, searched below too")
    parser.add_argument("--tables", type=Path, default=TABLES)
    parser.add_argument("--figures", type=Path, default=FIGURES)
    args = parser.parse_args()
    data = points(args.walk)
    sections = [drift_section(data, model) for model in sorted({row["model"] for row in data})]
    try:
        runs = run_section(load_all(sorted(args.runs.rglob("*.json"))))
    except RecordError as error:
        print(error, file=sys.stderr)
        return 1
    sections += [runs] if runs is not None else []
    title = "The walk: what the perturbation alone does to weights in low precision"
    paths = write("table_walk", title, sections, "scripts/table_walk.py", args.tables)
    paths += draw(data, args.figures) if data else []
    print(*paths, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
