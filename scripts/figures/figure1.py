"""Figure 1: training loss under bf16 against forward passes, one panel for each method."""

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.records.record import Record
from experiments.sweeps.grid import Grid, load, rate_key, read
from experiments.sweeps.selection import Shelf
from experiments.tables.artefacts import Artefact
from experiments.tables.inputs import Inputs
from experiments.tables.published import method
from scripts.figures.style import COLOURS, bare, named

LINES = {"official": "--", "corrected": "-"}


def curves(shelf: Shelf, grid: Grid) -> dict[tuple[str, str, str], Record]:
    """Return the record of each (method, fidelity, rate), with the rates in falling order."""
    found = {}
    for point in grid.points:
        for run in grid.candidates(point):
            record = shelf.find(run)
            if record is not None:
                found[method(point), point["fidelity"], run[rate_key(point["optimizer"])]] = record
    return found


def draw_method(panel: Axes, name: str, found: dict[tuple[str, str, str], Record]) -> None:
    """Draw one method: the colour is the rate, the style of the line is the fidelity, and a run
    that diverged ends in a cross."""
    rates = list(dict.fromkeys(rate for who, _, rate in found if who == name))
    for (who, fidelity, rate), record in found.items():
        if who != name:
            continue
        seen = [
            (point["num_forwards"], point["train_loss"])
            for point in record["curve"]
            if point["train_loss"] is not None
        ]
        label = (
            f"{rate}{'' if record['status'] == 'ok' else ' ' + record['status']}"
            if fidelity == "corrected"
            else None
        )
        colour = COLOURS[rates.index(rate) % len(COLOURS)]
        panel.plot(
            *zip(*seen, strict=True) if seen else ([], []),
            LINES[fidelity],
            color=colour,
            label=label,
            linewidth=1.4,
        )
        if seen and record["status"] != "ok":
            panel.plot(*seen[-1], "x", color=colour)
    bare(panel).set(title=name, xlabel="forward passes")
    panel.legend(frameon=False, fontsize=8, title="learning rate", title_fontsize=8)


def draw(artefact: Artefact, inputs: Inputs) -> dict[str, Figure]:
    """Return one drawing for each profile that has runs."""
    drawn: dict[str, Figure] = {}
    (sweep,) = artefact.sweeps
    for profile in read(sweep)["profiles"]:
        grid = load(sweep, profile)
        shelf = Shelf(inputs.records(profile))
        found = curves(shelf, grid)
        inputs.used |= shelf.used
        names = list(dict.fromkeys(name for name, _, _ in found))
        if not names:
            continue
        figure, panels = plt.subplots(
            2,
            (len(names) + 1) // 2,
            figsize=(12, 6.4),
            sharey=True,
            squeeze=False,
            layout="constrained",
        )
        for panel in panels.flat[len(names) :]:
            panel.set_visible(False)
        for panel, name in zip(panels.flat, names, strict=False):
            draw_method(panel, name, found)
        for panel in panels[:, 0]:
            panel.set_ylabel("training loss")
        setting = grid.settings[0]
        figure.suptitle(
            f"{setting['model']} on SST-2, {setting['precision']} (profile {profile}); "
            "solid: corrected (exact restoration), dashed: official (walk as published)"
        )
        drawn[named(artefact.name, profile)] = figure
    return drawn
