"""Validation accuracy and loss against forward passes, own directions beside shared ones, mean over
tasks and seeds. `make figure_each`; loads neither torch nor Hydra."""

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from experiments.sweeps.grid import load
from experiments.sweeps.selection import Shelf
from experiments.tables.artefacts import Artefact
from experiments.tables.equal_passes import rows_of
from experiments.tables.inputs import Inputs
from scripts.figures.figure_real import LINES, mean_curve
from scripts.figures.style import COLOURS, bare

PROFILE = "mini"


def draw(artefact: Artefact, inputs: Inputs) -> dict[str, Figure]:
    """One drawing of the runs (task, seed) that every method has; empty where there is none.

    Tasks differ in their losses, so that a mean over other tasks for other methods would compare
    the tasks.
    """
    (sweep,) = artefact.sweeps
    grid = load(sweep, PROFILE)
    shelf = Shelf(inputs.records(PROFILE), grid.conf)
    (setting,) = grid.settings
    rows = rows_of(grid, shelf, setting)
    inputs.used |= shelf.used
    common = set.intersection(*(set(row.well) for row in rows))
    if not common:
        return {}
    figure, (left, right) = plt.subplots(1, 2, figsize=(11.5, 4.2), layout="constrained")
    for number, row in enumerate(rows):
        runs = [row.well[run] for run in sorted(common)]
        look = {
            "color": COLOURS[number % len(COLOURS)],
            "linestyle": LINES[number // len(COLOURS) % len(LINES)],
            "linewidth": 1.5,
        }
        passes, accuracy = mean_curve(runs, "validation_accuracy")
        left.plot(passes, [100 * value for value in accuracy], label=row.name, **look)
        right.plot(*mean_curve(runs, "validation_loss"), **look)
    bare(left).set(xlabel="forward passes", ylabel="validation accuracy (%)")
    bare(right).set(xlabel="forward passes", ylabel="validation loss")
    tasks, seeds = ({run[i] for run in common} for i in (0, 1))
    left.set_title(
        f"{setting['model']}, {len(common)} runs a line: {len(tasks)} tasks, {len(seeds)} seeds"
    )
    figure.legend(
        *left.get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside right upper"
    )
    return {artefact.name: figure}
