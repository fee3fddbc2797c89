"""The gain of the posterior and sigma_e along BSZO's runs on SST-2."""

import math

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from experiments.records.record import Record
from experiments.sweeps.grid import PROFILES, holds, load, read
from experiments.sweeps.selection import Shelf
from experiments.tables.artefacts import Artefact
from experiments.tables.inputs import Inputs
from scripts.figures.style import COLOURS, bare, named

LINES = ("-", "--", ":")


def beliefs(artefact: Artefact, inputs: Inputs, profile: str) -> dict[str, Record]:
    """Return the records of BSZO on SST-2 with exact restoration at every rate, by "tiny-opt bf16,
    lr 0.01".

    BSZO-B is left out, because its numbers are the same with exact restoration.
    """
    found: dict[str, Record] = {}
    for sweep in (name for name in artefact.sweeps if profile in read(name)["profiles"]):
        grid, shelf = load(sweep, profile), Shelf(inputs.records(profile))
        for point in (point for point in grid.points if holds(point, artefact.picked)):
            for run in grid.candidates(point):
                record = shelf.find(run)
                if record is not None and any(seen["gain"] is not None for seen in record["curve"]):
                    found[f"{run['model']} {run['precision']}, lr {run['optimizer.lr']}"] = record
                    inputs.used.add(record["signature"])
    return found


def draw(artefact: Artefact, inputs: Inputs) -> dict[str, Figure]:
    """Return one drawing for each profile that has such runs."""
    drawn: dict[str, Figure] = {}
    for profile in PROFILES:
        found = beliefs(artefact, inputs, profile)
        if not found:
            continue
        figure, (above, below) = plt.subplots(
            2, 1, figsize=(9, 6.4), sharex=True, layout="constrained"
        )
        settings = list(dict.fromkeys(name.split(",")[0] for name in found))
        rates = list(dict.fromkeys(name.split("lr ")[1] for name in found))
        for name, record in found.items():
            seen = [point for point in record["curve"] if point["gain"] is not None]
            steps = [point["step"] for point in seen]
            colour = COLOURS[settings.index(name.split(",")[0]) % len(COLOURS)]
            line = LINES[rates.index(name.split("lr ")[1]) % len(LINES)]
            above.plot(
                steps,
                [point["gain"] for point in seen],
                line,
                color=colour,
                label=name,
                linewidth=1.4,
            )
            below.plot(
                steps,
                [math.sqrt(point["noise_var"]) for point in seen],
                line,
                color=colour,
                linewidth=1.4,
            )
        bare(above).set(ylabel="gain of the posterior mean", yscale="log")
        above.set_title(f"BSZO on SST-2 (profile {profile}): 1 is no shrinkage")
        bare(below).set(ylabel="sigma_e", xlabel="step", yscale="log")
        figure.legend(
            *above.get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside right upper"
        )
        drawn[named(artefact.name, profile)] = figure
    return drawn
