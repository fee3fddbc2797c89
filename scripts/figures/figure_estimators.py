"""Errors of directional derivatives over the length and over the number of terms, from
results/measured/estimators.json, which `scripts.study.estimators` writes."""

from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.tables.artefacts import Artefact
from experiments.tables.inputs import Inputs
from experiments.tables.sources import MEASURED
from scripts.figures.figure_theory import read_facts
from scripts.figures.style import COLOURS, bare

MEASURED_FILE = MEASURED / "estimators.json"
STYLES = ("-", "-", ":", "--", "-", "-.", "-", "-", "-")
# P4 has one colour, whatever its law
HUES = (0, 1, 6, 2, 2, 2, 3, 4, 5)
HIGHEST = 1e4  # P1 lies far above it


def draw_lengths(panel: Axes, facts: dict[str, Any], dtype: str, title: str) -> None:
    """Draw the error of every estimator over the length."""
    for row, style, hue in zip(facts["by_length"], STYLES, HUES, strict=True):
        above = ", above" if min(row[dtype]) > HIGHEST else ""
        label = f"{row['estimator']} ({row['passes']:.2g} passes{above})"
        panel.plot(facts["lengths"], row[dtype], style, color=COLOURS[hue], lw=1.4, label=label)
    panel.set(
        title=title,
        xlabel="length mu",
        ylabel="rms error / rms slope",
        xscale="log",
        yscale="log",
        ylim=(1e-13, HIGHEST),
    )


def draw_terms(panel: Axes, facts: dict[str, Any]) -> None:
    """Draw P4's error over its number of terms, and the central difference's beside it."""
    for place, row in enumerate(facts["by_terms"]):
        label = f"P4, noise {row['noise']:g}"
        panel.plot(facts["terms"], row["p4"], "o-", ms=3, lw=1.2, color=COLOURS[place], label=label)
        panel.axhline(row["central"], color=COLOURS[place], lw=1.0, ls=":")
    panel.set(
        title=f"(c) mu = {facts['mu']:g}: P4 by terms; dotted: central",
        xlabel="terms before the sum is cut off",
        ylabel="rms error / rms slope",
        yscale="log",
    )


def least(row: dict[str, Any], dtype: str) -> float:
    """The error at the best length."""
    return min(row[dtype])


def verdicts(facts: dict[str, Any]) -> list[str]:
    """Say what the numbers show."""
    rows = {row["estimator"]: row for row in facts["by_length"]}
    central, forward, richardson, short, long = list(rows.values())[:5]
    at = facts["lengths"].index(min(facts["lengths"], key=lambda mu: abs(mu - 0.1)))
    ratio = long["float64"][at] / central["float64"][at]
    p2 = next(row for name, row in rows.items() if name.startswith("P2"))
    p3 = next(row for name, row in rows.items() if name.startswith("P3"))
    return [
        f"Without noise a long P4 has {ratio:.2f} of the central\n"
        f"difference's error at the same mu, for {long['passes']:.2g} passes\n"
        "instead of 2; Richardson's four passes have\n"
        f"{richardson['float64'][at] / central['float64'][at]:.0e} of it.",
        "With float32 losses, each at its best mu: central\n"
        f"{least(central, 'float32'):.0e}, forward {least(forward, 'float32'):.0e},\n"
        f"P4 with 4 terms {least(short, 'float32'):.0e}, with 12 {least(long, 'float32'):.0e}.",
        "A term halves the bias, and multiplies the variance\nthat noise causes by 8"
        " (1 / (mu_n^2 p_n)): the infinite\nsum has no variance that is finite.",
        f"P3's coin alone is {least(p3, 'float64'):.2g} of a slope, P2's draw\n"
        f"{least(p2, 'float64'):.0f}: its second moment holds sum 1 / p_n,\n"
        "which no law makes finite, with or without noise.",
    ]


def draw(artefact: Artefact, inputs: Inputs) -> dict[str, Figure]:
    """Draw both types of losses, the terms, and what they show, on one page."""
    del inputs  # no run's record: the study's file
    facts = read_facts(MEASURED_FILE)
    figure, panels = plt.subplots(1, 4, figsize=(21, 5), layout="constrained")
    draw_lengths(panels[0], facts, "float64", "(a) Losses in float64")
    draw_lengths(panels[1], facts, "float32", "(b) Losses rounded to float32")
    draw_terms(panels[2], facts)
    for panel in panels[:3]:
        bare(panel)
    panels[1].legend(framealpha=0.85, edgecolor="none", fontsize=8.5, loc="lower center", ncols=2)
    panels[2].legend(framealpha=0.85, edgecolor="none", fontsize=9)
    panels[3].axis("off")
    panels[3].text(0, 1, "\n\n".join(verdicts(facts)), va="top", fontsize=10.5, linespacing=1.4)
    return {artefact.name: figure}
