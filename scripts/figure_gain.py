"""The posterior's gain and sigma_e along BSZO's runs of Figure 1. `make figure_gain`; loads neither torch nor Hydra."""

import math
import sys
from pathlib import Path

from matplotlib import pyplot as plt
from style import COLOURS, FIGURES, bare, save

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.grid import load, read
from experiments.selection import Record, Shelf
from experiments.tables.command import Inputs, figure_command
from experiments.tables.published import method

SCRIPT = "scripts/figure_gain.py"


def beliefs(inputs: Inputs, profile: str) -> dict[str, Record]:
    """ "BSZO, lr 0.01" -> its record, of the runs whose steps report a gain."""
    grid, shelf, found = load("figure1", profile), Shelf(inputs.records(profile)), {}
    for point in (point for point in grid.points if point["fidelity"] == "corrected"):
        for run in grid.candidates(point):
            record = shelf.find(run)
            if record is not None and any(seen["gain"] is not None for seen in record["curve"]):
                found[f"{method(point)}, lr {run['optimizer.lr']}"] = record
                inputs.used.add(record["signature"])
    return found


def build(inputs: Inputs, folder: Path) -> list[Path]:
    paths = []
    for profile in read("figure1")["profiles"]:
        found = beliefs(inputs, profile)
        if not found:
            continue
        figure, (above, below) = plt.subplots(2, 1, figsize=(8, 6.4), sharex=True, layout="constrained")
        for colour, (name, record) in zip(COLOURS, found.items(), strict=False):
            seen = [point for point in record["curve"] if point["gain"] is not None]
            steps = [point["step"] for point in seen]
            above.plot(steps, [point["gain"] for point in seen], color=colour, label=name, linewidth=1.4)
            below.plot(steps, [math.sqrt(point["noise_var"]) for point in seen], color=colour, linewidth=1.4)
        bare(above).set(
            ylabel="gain of the posterior mean", ylim=(0, 1.05), title=f"profile {profile}: 1 is no shrinkage"
        )
        bare(below).set(ylabel="sigma_e", xlabel="step", yscale="log")
        above.legend(frameon=False, fontsize=8, ncols=2)
        paths += save(figure, "figure_gain" if profile == "paper" else f"figure_gain_{profile}", SCRIPT, folder)
    return paths


if __name__ == "__main__":
    sys.exit(figure_command("figure_gain", build, FIGURES))
