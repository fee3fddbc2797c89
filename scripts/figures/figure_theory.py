"""BSZO's theorems against measurement: seven panels and a verdict from
results/measured/theory.json, which `scripts.study.theory` writes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from experiments.tables.artefacts import Artefact
from experiments.tables.inputs import Inputs
from experiments.tables.sources import MEASURED, MeasurementError
from scripts.figures.style import COLOURS, bare

THEORY = MEASURED / "theory.json"
SURELY = 4.0  # standard errors: chance alone goes farther in 1 of 16,000 means
MARKS = ("o", "s", "^", "D", "v")


def series_of(facts: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Group the moments by the problem on which they were measured."""
    series: dict[str, list[dict[str, Any]]] = {}
    for row in facts["moments"]:
        name = {
            "quadratic": f"quadratic, n = {row['n']}",
            "network": f"small network, n = {row['n']}",
            "noisy quadratic": f"noisy losses, n = {row['n']}",
        }[row["problem"]]
        series.setdefault(name, []).append(row)
    return series


def draw_ratio(panel: Any, facts: dict[str, Any], which: str, title: str) -> None:
    """Draw measured over predicted with two standard errors; points of the same k stand a little
    apart."""
    for place, (name, rows) in enumerate(series_of(facts).items()):
        k = np.array([row["k"] for row in rows]) * 2 ** (0.11 * (place - 2))
        ratio = [row[which]["mean"] for row in rows]
        error = [2 * row[which]["error"] for row in rows]
        panel.errorbar(
            k, ratio, yerr=error, fmt=MARKS[place], ms=4, lw=1.2, color=COLOURS[place], label=name
        )
    panel.axhline(1.0, color="#000000", lw=1)
    panel.set_xscale("log", base=2)
    ks = sorted({row["k"] for row in facts["moments"]})
    panel.set(
        title=title,
        xlabel="directions k",
        ylabel="measured / formula, 2 standard errors",
        ylim=(0.88, 1.17),
    )
    panel.set_xticks(ks, labels=ks)


def draw_shrinkage(panel: Any, facts: dict[str, Any]) -> None:
    rows = facts["shrinkage"]
    ratio = [row["ratio"] for row in rows]
    gamma = np.array([row["gamma"] for row in rows])
    panel.plot(
        ratio, gamma, color=COLOURS[0], lw=1.4, label=r"$\gamma=\sigma_p^2/(\sigma_p^2+\sigma_e^2)$"
    )
    panel.plot(
        ratio, [row["gain"] for row in rows], "o", ms=5, color=COLOURS[0], label=r"measured $\mu/y$"
    )
    panel.plot(ratio, 1 - gamma, color=COLOURS[1], lw=1.4, label=r"$1-\gamma$")
    panel.plot(
        ratio,
        [row["cov"] for row in rows],
        "s",
        ms=5,
        color=COLOURS[1],
        label=r"measured $\Sigma_{ii}/\sigma_p^2$",
    )
    panel.set_xscale("log")
    panel.set(
        title=r"(c) Corollary 3.6: $\mu$ holds; $\Sigma$ is $1-\gamma$, not $\gamma$",
        xlabel=r"$\sigma_e^2/\sigma_p^2$",
        ylabel="share",
    )


def draw_shipped(panel: Any, facts: dict[str, Any]) -> None:
    rows = facts["shipped"]
    panel.errorbar(
        [row["slope"] for row in rows],
        [row["mean"] for row in rows],
        yerr=[2 * row["error"] for row in rows],
        fmt="o",
        ms=4,
        color=COLOURS[2],
        label="measured, adaptive noise, m = k + 1",
    )
    panel.axhline(
        rows[0]["gamma"],
        color=COLOURS[0],
        lw=1.4,
        label=r"Theorem 3.7 with the initial $\gamma=1/2$",
    )
    panel.axhline(1.0, color="#000000", lw=0.8, ls=":", label="no shrinkage")
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set(
        title="(d) As shipped: the shrinkage follows the gradient",
        xlabel=r"$|\nabla L|\,/\,\sigma_p$",
        ylabel=r"$E[\delta]$ over $-\eta k\,\nabla L$",
    )


def middle(curve: dict[str, Any]) -> np.ndarray:
    """Return the geometric mean of the seeds' losses over their start, for the steps that all of
    them took."""
    length = min(len(run) for run in curve["losses"])
    runs = np.array([run[:length] for run in curve["losses"]])
    return np.exp(np.log(runs).mean(axis=0)) / runs[0, 0]


def promised(curve: dict[str, Any]) -> np.ndarray:
    """Return the bound at its own best rate, over the start."""
    return np.array(curve["bound"]) / curve["bound"][0]


def draw_descent(panel: Any, facts: dict[str, Any], cost: str) -> None:
    """Draw the loss over its start: as measured, its exact expectation, and our bound."""
    for place, curve in enumerate(facts["descent"]["curves"]):
        each = curve["num_forwards_a_step"] if cost == "forward passes" else 1
        start = curve["losses"][0][0]
        expected = np.array(curve["expected"]) / start
        for losses, style in ((middle(curve), "-"), (expected, ":"), (promised(curve), "--")):
            label = f"k = {curve['k']}" if style == "-" and cost == "steps" else None
            panel.plot(
                np.arange(len(losses)) * each,
                losses,
                style,
                color=COLOURS[place],
                lw=1.4,
                label=label,
            )
    if cost == "forward passes":
        for style, label in (
            ("-", "measured, geometric mean"),
            (":", "exact expectation"),
            ("--", "our bound"),
        ):
            panel.plot([], [], style, color="#000000", lw=1.4, label=label)
    letter = "f" if cost == "forward passes" else "e"
    panel.set_yscale("log")
    panel.set(
        title=f"({letter}) Quadratic, n = {facts['descent']['n']}: loss against {cost}",
        xlabel=cost,
        ylabel="loss / first loss",
        ylim=(facts["descent"]["goal"], 1.3),
    )
    if cost == "steps":
        panel.set_xlim(0, 400)


def draw_speedup(panel: Any, facts: dict[str, Any]) -> None:
    """Draw how much faster the log of the loss falls than with k = 1, by the step and by the
    forward pass."""
    curves, n = facts["descent"]["curves"], facts["descent"]["n"]
    base = curves[0]
    k = np.array([curve["k"] for curve in curves])
    speed = np.array([curve["speed"] for curve in curves]) / base["speed"]
    relative = [
        (c["speed_error"] / c["speed"]) ** 2 + (base["speed_error"] / base["speed"]) ** 2
        for c in curves[1:]
    ]
    error = 2 * speed * np.sqrt([0.0, *relative])
    forwards = 2 / (k + 1)
    fine = np.geomspace(k[0], k[-1], 100)
    promised = fine * (n + 2) / (n + fine + 1)
    panel.errorbar(k, speed, yerr=error, fmt="o", ms=5, color=COLOURS[0], label="measured, a step")
    panel.plot(
        fine, promised, color=COLOURS[0], lw=1.4, label="our bound, a step: k (n+2) / (n+k+1)"
    )
    panel.plot(
        fine,
        fine / facts["descent"]["gamma"],
        color="#000000",
        lw=1.2,
        ls=":",
        label=r"the abstract's factor $k/\gamma$",
    )
    panel.errorbar(
        k,
        speed * forwards,
        yerr=error * forwards,
        fmt="s",
        ms=5,
        color=COLOURS[1],
        label="measured, a forward pass",
    )
    panel.plot(
        fine, promised * 2 / (fine + 1), color=COLOURS[1], lw=1.4, label="our bound, a forward pass"
    )
    panel.set_xscale("log", base=2)
    panel.set_yscale("log", base=2)
    panel.set(
        title="(g) Speed over k = 1, each at its best rate",
        xlabel="directions k",
        ylabel="times faster",
    )
    panel.set_xticks(k, labels=k)
    panel.set_yticks([1, 2, 4, 8, 16, 32], labels=[1, 2, 4, 8, 16, 32])


def verdicts(facts: dict[str, Any]) -> list[str]:
    """Say what holds and what does not, each from its numbers."""
    lines = []
    for letter, which, name in (("a", "first", "Theorem 3.7"), ("b", "second", "Eq. 55")):
        away = [abs(row[which]["mean"] - 1) / row[which]["error"] for row in facts["moments"]]
        holds = "holds" if max(away) < SURELY else "does not hold"
        lines.append(
            f"({letter}) {name} {holds}: {len(away)} ratios,\nthe farthest {max(away):.1f} errors"
            " from 1"
        )
    rows = facts["shrinkage"]
    off = max(
        max(abs(row["gain"] - row["gamma"]), abs(row["cov"] - 1 + row["gamma"])) for row in rows
    )
    printed = max(abs(row["cov"] - row["gamma"]) for row in rows)
    lines.append(
        f"(c) the mean is gamma y and the covariance\n(1 - gamma) sigma_p^2, both to {off:.0e};\n"
        f"gamma I, as printed, is off by up to {printed:.2f}"
    )
    low, high = facts["shipped"][0], facts["shipped"][-1]
    lines.append(
        f"(d) with adaptive noise there is no one gamma:\n{low['mean']:.2f} where |grad L| is "
        f"{low['slope']:.2g} sigma_p,\n{high['mean']:.1g} where it is {high['slope']:.0f}"
    )
    curves, gamma = facts["descent"]["curves"], facts["descent"]["gamma"]
    above = [c["k"] for c in curves if (middle(c) > promised(c)[: len(middle(c))] + 1e-9).any()]
    empty = [c["k"] for c in curves if c["lr"] >= 2 * c["bound_lr"]]
    lines.append(
        f"(e, f) loss above our bound: {f'k in {above}' if above else 'for no k'};\nmeasured at the"
        f" best rate of a grid, at which\nthe bound promises nothing for k in {empty}"
    )
    gain, k = curves[-1]["speed"] / curves[0]["speed"], curves[-1]["k"]
    lines.append(
        f"(g) k = {k}: {gain:.1f} times faster a step (bound"
        f" {curves[-1]['promised_speedup']:.1f},\nthe abstract's k / gamma {k / gamma:.0f}),"
        f" {gain * 2 / (k + 1):.1f} times a forward pass:\nthe best rate takes gamma in, the passes"
        " take k"
    )
    return lines


def read_facts(path: Path) -> dict[str, Any]:
    """Read what a study has measured, such as `scripts.study.theory`.

    Raises:
        MeasurementError: the file is absent or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MeasurementError(
            f"{path.name}: not there; make run-figure_{path.stem} measures it"
        ) from None
    except ValueError as error:
        raise MeasurementError(f"{path.name}: not whole JSON ({error})") from error


def draw(artefact: Artefact, inputs: Inputs) -> dict[str, Figure]:
    """Draw all panels on one page."""
    del inputs  # no run's record: the study's file
    facts = read_facts(THEORY)
    figure, panels = plt.subplots(2, 4, figsize=(21, 9.5), layout="constrained")
    draw_ratio(panels[0, 0], facts, "first", r"(a) Theorem 3.7: $E[\delta]=-\eta\gamma k\nabla L$")
    draw_ratio(
        panels[0, 1],
        facts,
        "second",
        r"(b) Eq. 55: $E|\delta|^2=\eta^2\gamma^2k\,((n+k+1)|\nabla L|^2+nv)$",
    )
    draw_shrinkage(panels[0, 2], facts)
    draw_shipped(panels[0, 3], facts)
    draw_descent(panels[1, 0], facts, "steps")
    draw_descent(panels[1, 1], facts, "forward passes")
    draw_speedup(panels[1, 2], facts)
    for panel in panels.flat[:-1]:
        bare(panel).legend(framealpha=0.85, edgecolor="none", fontsize=9)
    panels[1, 3].axis("off")
    panels[1, 3].text(0, 1, "\n\n".join(verdicts(facts)), va="top", fontsize=10.5, linespacing=1.4)
    return {artefact.name: figure}
