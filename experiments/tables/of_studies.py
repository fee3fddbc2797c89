"""Findings from the ablations, the walk and BSZO's beliefs: a function a number in results/findings.md."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

from experiments.grid import load
from experiments.tables import walks
from experiments.tables.accuracy import AVERAGE, Kind, blocks
from experiments.tables.budgets import BUDGETS
from experiments.tables.evidence import NOT_RUN, PROFILE, Evidence, mean, numbers, sides
from experiments.tables.names import METHODS, shown

ABLATIONS = {"table5a": "m = k", "table5b": "m = k + 1"}


def gains(evidence: Evidence) -> str:
    """BSZO's gain at the end of its runs with adaptive noise: the median by model and precision."""
    found: dict[tuple[str, str], list[float]] = {}
    for point, record in evidence.cells("table1", "table3", "walk"):
        if point["optimizer"] == "bszo" and point["fidelity"] == "corrected":
            found.setdefault((point["model"], point["precision"]), []).append(record["curve"][-1]["gain"])
    return ", ".join(f"{model} {precision} {statistics.median(values):.2g} ({len(values)} runs)"
                     for (model, precision), values in sorted(found.items())) or NOT_RUN  # fmt: skip


def sigma_0(evidence: Evidence) -> str:
    """sqrt(n / 1e6) of the models."""
    found = [math.sqrt(record["model"]["num_parameters"] / 1e6) for record in evidence.records
             if record["choices"]["tuning"] == "full" and record["model"].get("num_parameters")]  # fmt: skip
    return f"{statistics.median(found):.2f}" if found else NOT_RUN


def adaptive_noise(evidence: Evidence) -> str:
    """Adaptive against fixed noise under bf16, and in fp32 with m = k + 1."""
    texts, parts = [], ((("table5c", "table5d"), "bf16"), (("table5b", "table12c"), "fp32"))
    for fidelity, (names, what) in product(("official", "corrected"), parts):
        gaps = _noise(evidence, names, fidelity)
        texts += [f"{what}, {fidelity} {mean(gaps)} ({sides(gaps)})"] if gaps else []
    return "; ".join(texts) or NOT_RUN


def _noise(evidence: Evidence, names: Sequence[str], fidelity: str) -> list[float]:
    """Cells that differ in the noise alone; one that does not name it has the default, adaptive."""
    scores: dict[tuple[str, ...], dict[str, float]] = {}
    for point, record in evidence.cells(*names):
        if point["fidelity"] == fidelity:
            place = (point["task"], point["optimizer.k"], point["optimizer.m"])
            noise = point.get("optimizer.adapt_noise", "always")
            scores.setdefault(place, {})[noise] = 100 * record["test_accuracy"]
    return [both["always"] - both["never"] for both in scores.values() if len(both) == 2]


def directions(evidence: Evidence) -> str:
    """Averages over the tasks by k, corrected, at equal steps."""
    return _by_k(evidence, None)


def directions_equal(evidence: Evidence) -> str:
    """The same at an equal number of forward passes, by validation accuracy."""
    return _by_k(evidence, 0)


def _by_k(evidence: Evidence, budget: int | None) -> str:
    lines = []
    for name, what in ABLATIONS.items():
        kind = Kind(lambda point: f"k = {point['optimizer.k']}", lambda point: None)
        kind = kind if budget is None else replace(kind, scoring=BUDGETS[budget].scoring)
        (block,) = blocks(load(name, PROFILE), evidence.records, kind)
        rows = {label: row[AVERAGE] for label, row in numbers(block, "corrected").items() if AVERAGE in row}
        each = ", ".join(f"{value:.1f} ({label})" for label, value in rows.items())
        lines += [f"{what}: {each}"] if each else []
    return "; ".join(lines) or NOT_RUN


def drift(evidence: Evidence) -> str:
    """What the walks do to real models in 16 bits at lr 0, and whether exact restoration ever moved one."""
    del evidence
    data = [row for row in walks.points()[0] if row["perplexity"] is not None or row["step"]]
    lines = []
    for model in sorted({row["model"] for row in data if row["perplexity"] is not None}):
        own = [row for row in data if row["model"] == model and row["dtype"] != "float32"]
        for (dtype, eps), rows in walks.groups(own, ("dtype", "eps")):
            curves = dict(walks.groups(rows, ("walk",)))
            each = [_moved(how, curves[how,]) for how in ("three-leg", "two-leg") if (how,) in curves]
            lines += [f"{model} {dtype}, eps {eps:g}: {', '.join(each)}"] if each else []
    exact = [row["drift"] for row in data if row["walk"] == "exact"]
    lines += [f"exact restoration {'never moves a weight' if max(exact) == 0 else 'moves weights'}"] if exact else []
    return "; ".join(lines) or NOT_RUN


def _moved(how: str, curve: Sequence[walks.Row]) -> str:
    first, last = curve[0]["perplexity"], curve[-1]["perplexity"]
    times = f"{last / first:.3g} times" if first and last else "beyond every float,"
    return f"{how} {100 * curve[-1]['drift']:.3g} % and {times} the perplexity in {curve[-1]['step']:,} steps"


def walk_study(evidence: Evidence) -> str:
    """What either walk loses to fp32 in training, by precision, and how far the losses went."""
    cells = {(point["optimizer"], point["precision"], point["optimizer.perturbation"]): record
             for point, record in evidence.cells("walk")}  # fmt: skip
    lines = []
    for precision, how in product(("bf16", "bf16-sr", "fp16"), walks.WALKS):
        own = {name: record for (name, bits, walk), record in cells.items() if (bits, walk) == (precision, how)}
        gaps = [100 * (record["test_accuracy"] - cells[name, "fp32", how]["test_accuracy"])
                for name, record in own.items() if (name, "fp32", how) in cells]  # fmt: skip
        lines += [f"{precision} {how} {mean(gaps, '+.1f')} methods"] if gaps else []
    return "; ".join(lines) or NOT_RUN


def walk_losses(evidence: Evidence) -> str:
    """The last training losses in bf16, by method."""
    found: dict[str, list[str]] = {}
    for point, record in evidence.cells("walk"):
        if point["precision"] == "bf16":
            loss = [seen["train_loss"] for seen in record["curve"] if seen["train_loss"] is not None][-1]
            found.setdefault(shown(METHODS, point["optimizer"]), []).append(f"{loss:.3g}")
    return ", ".join(f"{name} {' and '.join(losses)}" for name, losses in found.items()) or NOT_RUN


FINDINGS = (gains, sigma_0, adaptive_noise, directions, directions_equal, drift, walk_study, walk_losses)
