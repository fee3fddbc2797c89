"""Drift and perplexity along steps at learning rate 0, the walks against exact restoration."""

import sys
from collections.abc import Sequence
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator

from experiments.sweeps.paper import PaperError
from experiments.tables.artefacts import Artefact
from experiments.tables.inputs import Inputs
from experiments.tables.walk.table import CURVE, Row, groups, points, reference
from scripts.figures.style import COLOURS, bare

WALKS = {"three-leg": COLOURS[1], "two-leg": COLOURS[0], "exact": COLOURS[2]}
DTYPES: dict[str, Any] = {"float32": ":", "float16": "--", "bfloat16": "-"}
RINGS = {"float16": "s", "bfloat16": "o"}  # of what was measured before
NOUGHT = 1e-8  # below it the axis of the drift is linear, so that 0 has a place


def draw(artefact: Artefact, inputs: Inputs) -> dict[str, Figure]:
    """Draw one row of panels for each model and quantity and one column for each eps; the colour is
    the walk, the line the type."""
    del inputs  # no run's record: the study's files
    data, problems = points()
    for problem in problems:
        print(f"figure_drift: left out: {problem}", file=sys.stderr)
    if not data:
        return {}
    models = sorted({row["model"] for row in data}, key=lambda model: (model == "synthetic", model))
    rows = [
        (model, what)
        for model in models
        for what in ("drift", "perplexity")
        if any(row["model"] == model and row[what] is not None for row in data)
    ]
    lengths = sorted({row["eps"] for row in data})
    size = (11, 0.6 + 2.7 * len(rows))
    figure, panels = plt.subplots(
        len(rows),
        len(lengths),
        figsize=size,
        sharex=True,
        sharey="row",
        squeeze=False,
        layout="constrained",
    )
    for line, (model, what) in zip(panels, rows, strict=True):
        for panel, eps in zip(line, lengths, strict=True):
            own = [row for row in data if row["model"] == model and row["eps"] == eps]
            draw_curves(panel, own, what)
            draw_reference(
                panel,
                model,
                eps,
                what,
                next((row["perplexity"] for row in own if row["step"] == 0), None),
            )
            panel.set_title(f"{model}, eps {eps:g}", fontsize=10)
        line[0].set_ylabel("relative drift" if what == "drift" else "perplexity")
        if what == "perplexity":
            plain_numbers(line)
    for panel in panels[-1]:
        panel.set_xlabel("steps at learning rate 0")
    keys = [Line2D([], [], color=colour, label=how) for how, colour in WALKS.items()]
    keys += [
        Line2D([], [], color="black", linestyle=style, label=dtype)
        for dtype, style in DTYPES.items()
    ]
    keys += [
        Line2D(
            [],
            [],
            color="black",
            marker=mark,
            fillstyle="none",
            linestyle="none",
            label=f"{dtype}, measured before",
        )
        for dtype, mark in RINGS.items()
    ]
    figure.legend(
        handles=keys, loc="outside upper center", ncols=len(keys), frameon=False, fontsize=8
    )
    return {artefact.name: figure}


def draw_curves(panel: Axes, data: Sequence[Row], what: str) -> None:
    """Draw the curves of one model at one eps."""
    if not data:
        panel.text(0.5, 0.5, "not run", transform=panel.transAxes, ha="center", color="grey")
        panel.tick_params(left=False, bottom=False, which="both", labelbottom=False)
    for (dtype, _, how), curve in groups(data, CURVE):
        seen = [(row["step"], row[what]) for row in curve if row["step"] and row[what] is not None]
        panel.plot(
            *zip(*seen, strict=True) if seen else ([], []), DTYPES[dtype], color=WALKS[how], lw=1.4
        )
    bare(panel).set(xscale="log")
    if what == "drift":
        panel.set_yscale("symlog", linthresh=NOUGHT)
        panel.set_yticks([0, *(10.0**power for power in range(-8, 1, 2))])
        panel.set_ylim(-NOUGHT / 2, 2)
    else:
        panel.set_yscale("log")


def plain_numbers(panels: Sequence[Axes]) -> None:
    """Print plain numbers on the axis that the panels share; an axis within a decade gets more
    ticks than the powers of ten."""
    low, high = panels[0].get_ylim()
    axis = panels[0].yaxis
    if high < 10 * low:
        axis.set_major_locator(MaxNLocator(4))
        axis.set_minor_locator(NullLocator())
    axis.set_major_formatter("{x:g}")


def draw_reference(panel: Axes, model: str, eps: float, what: str, start: float | None) -> None:
    """Draw what was measured before this suite as rings. A perplexity there is scaled so that both
    start from `start`, which is ours."""
    try:
        found = reference(model)
    except PaperError as error:
        print(f"figure_drift: left out: {error}", file=sys.stderr)
        return
    for row in (row for row in found if not row["eps"] or float(row["eps"]) == eps):
        low, _, high = row["drift_percent"].partition("-")
        if what == "drift" and low:
            value = (float(low) + float(high or low)) / 200
        elif what == "perplexity" and row["perplexity"] and start:
            value = start * float(row["perplexity"]) / float(row["perplexity_at_start"])
        else:
            continue
        panel.plot(
            int(row["steps"]),
            value,
            RINGS[row["dtype"]],
            fillstyle="none",
            color=WALKS[row["walk"]],
            ms=7,
        )
