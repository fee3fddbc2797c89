"""A reward without a derivative over the steps of examples/reward.py, from
results/measured/reward.json, which scripts/study/reward.py writes."""

import statistics

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from experiments.tables.artefacts import Artefact
from experiments.tables.inputs import Inputs
from experiments.tables.sources import MEASURED
from scripts.figures.figure_theory import read_facts
from scripts.figures.style import COLOURS, bare

MEASURED_FILE = MEASURED / "reward.json"


def draw(artefact: Artefact, inputs: Inputs) -> dict[str, Figure]:
    """Draw the rewards of all seeds while they train, what is written before and after on
    beginnings that training never saw, and one of the texts."""
    del inputs  # no run's record: the example's file
    facts = read_facts(MEASURED_FILE)
    runs, steps = facts["runs"], facts["steps"]
    figure, panel = plt.subplots(figsize=(7.5, 4), layout="constrained")
    for run, colour in zip(runs, COLOURS, strict=False):
        panel.plot(range(1, steps + 1), run["curve"], color=colour, lw=1.2)
        panel.plot([0, steps + 1], [run["before"], run["after"]], "o", color=colour, ms=6)
    before, after = (statistics.fmean(run[key] for run in runs) for key in ("before", "after"))
    prompt, was, now = runs[0]["texts"][0]
    bare(panel).set(
        title=f"Unseen beginnings (dots): {before:.2f} colours a text before, {after:.2f} after",
        xlabel=f"steps of ES, in each the model writes {facts['directions']} times\n\n"
        f"{prompt} | {was}\n{prompt} > {now}",
        ylabel="mean reward of perturbed models",
    )
    return {artefact.name: figure}
