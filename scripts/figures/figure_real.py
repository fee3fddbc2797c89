"""Validation accuracy and loss of a real model against forward passes, every method at its chosen
rate. `make figure_real`; loads neither torch nor Hydra."""

import statistics
from collections.abc import Sequence

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from experiments.sweeps.selection import Record, Shelf
from experiments.tables.artefacts import Artefact
from experiments.tables.inputs import Inputs
from experiments.tables.real import BUDGETS, SWEEP, grid_of, rows_of, weight
from scripts.figures.style import COLOURS, bare

LINES = ("-", "--", ":")  # the colours are used again with another line


def mean_curve(runs: Sequence[Record], key: str) -> tuple[list[float], list[float]]:
    """Passes and the mean over the runs, at the evaluations that all of them have."""
    length = min(len(record["curve"]) for record in runs)
    points = [[record["curve"][i] for record in runs] for i in range(length)]
    points = [same for same in points if all(point[key] is not None for point in same)]
    return (
        [weight(runs[0]) * same[0]["num_forwards"] for same in points],
        [statistics.fmean(point[key] for point in same) for same in points],
    )


def draw(artefact: Artefact, inputs: Inputs) -> dict[str, Figure]:
    """One drawing of the longest runs that there are; empty where none has ended well."""
    shelf = Shelf(inputs.records(SWEEP))
    by_budget = [
        [row for row in rows_of(grid_of(budget), shelf) if row.well]
        for budget in sorted(BUDGETS, reverse=True)
    ]
    inputs.used |= shelf.used
    rows = next((rows for rows in by_budget if rows), None)
    if rows is None:
        return {}
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.2), layout="constrained")
    for number, row in enumerate(rows):
        runs = list(row.well.values())
        look = {
            "color": COLOURS[number % len(COLOURS)],
            "linestyle": LINES[number // len(COLOURS) % len(LINES)],
            "linewidth": 1.5,
        }
        passes, accuracy = mean_curve(runs, "validation_accuracy")
        label = f"{row.name} ({len(runs)})"
        left.plot(passes, [100 * value for value in accuracy], label=label, **look)
        right.plot(*mean_curve(runs, "validation_loss"), **look)
    bare(left).set(xlabel="forward passes", ylabel="validation accuracy (%)")
    bare(right).set(xlabel="forward passes", ylabel="validation loss", yscale="log")
    left.set_title("SmolLM2-135M on SST-2; mean over the seeds (runs)")
    figure.legend(
        *left.get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside right upper"
    )
    return {artefact.name: figure}
