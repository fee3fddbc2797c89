"""Validation accuracy and loss of a real model against forward passes, every method at its chosen
rate. `make figure_real`; loads neither torch nor Hydra."""

from matplotlib.figure import Figure

from experiments.sweeps.selection import Shelf
from experiments.tables.artefacts import Artefact
from experiments.tables.inputs import Inputs
from experiments.tables.real.study import BASELINE, BUDGETS, SWEEP, grid_of, rows_of
from scripts.figures.curves import drawn


def draw(artefact: Artefact, inputs: Inputs) -> dict[str, Figure]:
    """A drawing for each number of passes at which runs end, the shortest under the figure's own
    name: the methods that have every seed of MeZO's where another has, else all, over the seeds
    that they share; none where no run has ended well."""
    shelf = Shelf(inputs.records(SWEEP))
    drawings = {}
    for budget in sorted(BUDGETS):
        rows = [row for row in rows_of(grid_of(budget), shelf) if row.well]
        seeds = next((set(row.well) for row in rows if row.name == BASELINE), set())
        whole = [row for row in rows if seeds and seeds <= set(row.well)]
        rows = whole if len(whole) > 1 else rows
        # a seed that only one method has would compare the seeds
        common = sorted(set.intersection(*(set(row.well) for row in rows))) if rows else []
        if common:
            lines = [(row.name, [row.well[seed] for seed in common]) for row in rows]
            name = artefact.name if budget == min(BUDGETS) else f"{artefact.name}_{budget}"
            plural = "s" if len(common) > 1 else ""
            title = f"SmolLM2-135M on SST-2, seed{plural} {', '.join(common)}"
            drawings[name] = drawn(lines, title, losses="log")
    inputs.used |= shelf.used
    return drawings
