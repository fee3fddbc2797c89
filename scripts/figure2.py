"""Figure 2: peak memory by model and method, the paper's and ours. `make figure2`; loads neither torch nor Hydra."""

import sys
from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from style import COLOURS, FIGURES, bare, save

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.tables.command import Inputs, figure_command
from experiments.tables.measured import measured, printed

SCRIPT = "scripts/figure2.py"
Bars = dict[str, dict[str, float]]  # method -> label -> GB


def draw(panel: Axes, bars: Bars, title: str) -> None:
    """A group a method, a bar a label."""
    labels = list(dict.fromkeys(label for values in bars.values() for label in values))
    width = 0.8 / len(labels)
    for i, label in enumerate(labels):
        places = [j + (i - (len(labels) - 1) / 2) * width for j, values in enumerate(bars.values()) if label in values]
        heights = [values[label] for values in bars.values() if label in values]
        panel.bar(places, heights, width, color=COLOURS[i % len(COLOURS)], label=label)
    panel.set_xticks(range(len(bars)), list(bars), rotation=20)
    bare(panel).set(title=title, ylabel="peak memory, GB")
    panel.legend(frameon=False, fontsize=8)


def build(inputs: Inputs, folder: Path) -> list[Path]:
    del inputs  # no run's record: the benchmark's files
    paper: Bars = {}
    for row in printed():
        label = f"{row['model']} {row['precision']}, paper"
        paper.setdefault(row["method"], {})[label] = float(row["peak_memory_gb"])
    ours: Bars = {}
    for row in measured():
        for what, value in (("as published", row.published_gb), ("ours", row.ours_gb)):
            if value is not None:
                ours.setdefault(row.method, {})[f"{row.model} {row.precision}, {what}"] = value
    figure, panels = plt.subplots(
        1, 2 if ours else 1, figsize=(12 if ours else 7, 4), squeeze=False, layout="constrained"
    )
    draw(panels[0][0], paper, "The paper's (one H200)")
    if ours:
        draw(panels[0][1], ours, "Measured here (CPU: resident set)")
    return save(figure, "figure2", SCRIPT, folder)


if __name__ == "__main__":
    sys.exit(figure_command("figure2", build, FIGURES))
