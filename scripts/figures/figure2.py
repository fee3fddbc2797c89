"""Figure 2: peak memory by model and method, the paper's beside ours."""

import sys
from collections.abc import Mapping, Sequence

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.sweeps.paper import StepCost, step_costs
from experiments.tables.artefacts import Artefact
from experiments.tables.inputs import Inputs
from experiments.tables.measured import Measured, measured
from scripts.figures.style import COLOURS, bare

Bars = dict[str, dict[str, float]]  # label -> method -> GB
PAPER, PUBLISHED, OURS = "paper (H200)", "as published, here", "ours, here"
KINDS: dict[str, str] = dict(zip((PAPER, PUBLISHED, OURS), COLOURS, strict=False))
METHODS = ("MeZO", "MeZO-Adam", "HiZOO", "LOZO", "BSZO", "BSZO-B")


def draw_bars(panel: Axes, bars: Bars, title: str, what: str) -> None:
    """Draw one group of bars for each method and one bar for each label, with its value above
    it."""
    methods = [method for method in METHODS if any(method in values for values in bars.values())]
    width = 0.8 / len(bars)
    for i, (label, values) in enumerate(bars.items()):
        there = [
            (place, values[method]) for place, method in enumerate(methods) if method in values
        ]
        places = [place + (i - (len(bars) - 1) / 2) * width for place, _ in there]
        drawn = panel.bar(
            places, [value for _, value in there], width, color=KINDS[label], label=label
        )
        panel.bar_label(drawn, fmt="{:.3g}", fontsize=6, padding=1)
    panel.set_xticks(range(len(methods)), methods, fontsize=8)
    bare(panel).set(ylabel=what)
    panel.set_title(title, fontsize=10)
    panel.margins(y=0.12)
    panel.legend(frameon=False, fontsize=7)


def of_setting(rows: Sequence[Measured], printed: Mapping[str, StepCost]) -> Bars:
    """Return the bars of the paper, of the published procedure and of this library; a label without
    any bar is left out."""
    bars = {
        PAPER: {method: cell.gb for method, cell in printed.items()},
        PUBLISHED: {row.method: row.published_gb for row in rows if row.published_gb},
        OURS: {row.method: row.ours_gb for row in rows if row.ours_gb},
    }
    return {label: values for label, values in bars.items() if values}


def draw(artefact: Artefact, inputs: Inputs) -> dict[str, Figure]:
    """Draw one panel for each setting of the paper, with peaks of the GPU's allocator, and further
    panels with resident sets of a CPU."""
    del inputs  # no run's record: the benchmark's files
    (theirs, wrong), (rows, damaged) = step_costs(), measured()
    for problem in (*wrong, *damaged):
        print(f"figure2: left out: {problem}", file=sys.stderr)
    panels = []
    for on_gpu, what in ((True, "peak of the allocator, GB"), (False, "peak resident set, GB")):
        mine = [row for row in rows if row.gpu == on_gpu]
        for model, precision in dict.fromkeys(
            [*(theirs if on_gpu else ()), *((r.model, r.precision) for r in mine)]
        ):
            own = [row for row in mine if (row.model, row.precision) == (model, precision)]
            bars = of_setting(own, theirs.get((model, precision), {}) if on_gpu else {})
            cards = ", ".join(dict.fromkeys(row.card for row in own)) or "not measured here"
            panels += [(bars, f"{model}, {precision}: {cards}", what)] if bars else []
    if not panels:
        return {}
    high = -(-len(panels) // 2)
    size = (12, 3.6 * high)
    figure, axes = plt.subplots(
        high, min(2, len(panels)), figsize=size, squeeze=False, layout="constrained"
    )
    for panel in axes.flat[len(panels) :]:
        panel.set_visible(False)
    for panel, (bars, title, what) in zip(axes.flat, panels, strict=False):
        draw_bars(panel, bars, title, what)
    return {artefact.name: figure}
