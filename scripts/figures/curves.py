"""Curves of validation accuracy and loss against forward passes, a line a method."""

import statistics
from collections.abc import Sequence

from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from experiments.records.passes import passes_of, weight
from experiments.records.record import Record
from scripts.figures.style import COLOURS, bare

LINES = ("-", "--", ":")  # the colours are used again with another line


def mean_curve(runs: Sequence[Record], key: str) -> tuple[list[float], list[float]]:
    """Passes and the mean over the runs, at the evaluations that all of them have."""
    length = min(len(record["curve"]) for record in runs)
    points = [[record["curve"][i] for record in runs] for i in range(length)]
    points = [same for same in points if all(point[key] is not None for point in same)]
    return (
        [passes_of(runs[0], same[0]) for same in points],
        [statistics.fmean(point[key] for point in same) for same in points],
    )


def drawn(lines: Sequence[tuple[str, Sequence[Record]]], title: str, *, losses: str) -> Figure:
    """Draw the mean over the runs of each line, accuracy on the left and loss on the right.

    Args:
        lines: name -> runs.
        title: of the left panel.
        losses: the scale of the right one, "linear" or "log".
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(11.5, 4.2), layout="constrained")
    for number, (name, runs) in enumerate(lines):
        look = {
            "color": COLOURS[number % len(COLOURS)],
            "linestyle": LINES[number // len(COLOURS) % len(LINES)],
            "linewidth": 1.5,
        }
        passes, accuracy = mean_curve(runs, "validation_accuracy")
        left.plot(passes, [100 * value for value in accuracy], label=name, **look)
        right.plot(*mean_curve(runs, "validation_loss"), **look)
    axis = "forward passes"
    if any(weight(runs[0]) != 1 for _, runs in lines):
        axis = "passes (a backward pass is two, a forward-mode pass three)"
    bare(left).set(xlabel=axis, ylabel="validation accuracy (%)", title=title)
    bare(right).set(xlabel=axis, ylabel="validation loss", yscale=losses)
    if losses == "log":
        right.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 4, 5, 6, 8)))
        right.yaxis.set_major_formatter("{x:g}")
        right.yaxis.set_minor_formatter(NullFormatter())
    figure.legend(
        *left.get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside right upper"
    )
    return figure
