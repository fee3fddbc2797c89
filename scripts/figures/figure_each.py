"""Validation accuracy and loss against forward passes, own directions beside shared ones, mean over
tasks and seeds. `make figure_each`; loads neither torch nor Hydra."""

from matplotlib.figure import Figure

from experiments.sweeps.grid import load
from experiments.sweeps.selection import Shelf
from experiments.tables.artefacts import Artefact
from experiments.tables.equal_passes import rows_of
from experiments.tables.inputs import Inputs
from scripts.figures.curves import drawn

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
    lines = [(row.name, [row.well[run] for run in sorted(common)]) for row in rows]
    tasks, seeds = ({run[i] for run in common} for i in (0, 1))
    title = f"{setting['model']}, {len(common)} runs a line: {len(tasks)} tasks, {len(seeds)} seeds"
    return {artefact.name: drawn(lines, title, losses="linear")}
