"""Drift and perplexity along steps at lr 0, walks against exact restoration. `make figure_drift`; loads no torch."""

import sys
from pathlib import Path

from matplotlib import pyplot as plt
from style import COLOURS, FIGURES, bare, save

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.tables.command import Inputs, figure_command
from experiments.tables.walks import CURVE, groups, points

WALKS = ("three-leg", "two-leg", "exact")
DTYPES = {"float32": "-", "float16": "--", "bfloat16": ":"}


def build(inputs: Inputs, folder: Path) -> list[Path]:
    """A column a model: drift above, perplexity below; colour says the walk and eps, line the type."""
    del inputs  # no run's record: the study's files
    data = points()
    if not data:
        return []
    models = sorted({row["model"] for row in data})
    figure, panels = plt.subplots(2, len(models), figsize=(5.2 * len(models) + 2, 6.4), sharex=True, squeeze=False)
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
    panels[0, -1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.0), frameon=False)
    figure.tight_layout()
    return save(figure, "figure_drift", "scripts/figure_drift.py", folder)


if __name__ == "__main__":
    sys.exit(figure_command("figure_drift", build, FIGURES))
