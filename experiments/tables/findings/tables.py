"""Findings of the runs of Tables 1 and 3: one function for each number in results/findings.md."""

import statistics
from collections.abc import Mapping

from experiments.sweeps.grid import load
from experiments.sweeps.names import METHODS, TASKS, shown
from experiments.tables.accuracy import AVERAGE, Block
from experiments.tables.findings.evidence import NOT_RUN, PROFILE, Evidence, numbers
from experiments.tables.layout import rectangle

SOURCES = ("official", "corrected")
CORRECTED = {"fidelity": "corrected"}


def size(evidence: Evidence) -> str:
    """How many millions of parameters the models have."""
    found = [
        record["model"]["num_parameters"] / 1e6
        for record in evidence.records
        if record["choices"]["tuning"] == "full" and record["model"].get("num_parameters")
    ]
    return f"{min(found):.2f} to {max(found):.2f}" if found else NOT_RUN


def steps(evidence: Evidence) -> str:
    found = sorted({record["num_steps"] for _, record in evidence.cells("table1", "table3")})
    return " or ".join(f"{number:,}" for number in found) or NOT_RUN


def rates(evidence: Evidence) -> str:
    """How many learning rates validation chooses from."""
    del evidence
    found = sorted(
        {
            len(grid.candidates(point))
            for grid in (load("table1", PROFILE), load("table3", PROFILE))
            for point in grid.points
        }
    )
    return " or ".join(map(str, found))


def passes(evidence: Evidence) -> str:
    """How many forward passes a step takes, by method."""
    found = {
        point["optimizer"]: record["num_forwards"] / record["num_steps"]
        for point, record in evidence.cells("table1", "table3")
    }
    return (
        ", ".join(f"{shown(METHODS, name)} {found[name]:g}" for name in METHODS if name in found)
        or NOT_RUN
    )


def averages(evidence: Evidence) -> str:
    """A table with one row for each block: averages over all tasks, how many tasks each method
    leads, and BSZO minus MeZO at equal forward passes."""
    gaps, lines, labels = _gaps(evidence, budget=0), [], list(METHODS.values())
    for title, block in evidence.blocks():
        for source in SOURCES:
            rows = {label: row for label, row in numbers(block, source).items() if AVERAGE in row}
            if len(rows) > 1:
                each = [f"{rows[label][AVERAGE]:.1f}" if label in rows else "-" for label in labels]
                gap = gaps.get((title, source))
                ends = _leaders(block, rows), "-" if gap is None else f"{gap:+.1f}"
                lines.append([f"{title}, {source}", *each, *ends])
    heads = (
        "average over the tasks",
        *labels,
        "best of a task, ties for each",
        "BSZO - MeZO, equal passes",
    )
    return "\n".join(rectangle(heads, lines)) if lines else NOT_RUN


def _leaders(block: Block, rows: Mapping[str, Mapping[str, float]]) -> str:
    best = {task: max(row[task] for row in rows.values()) for task in block.tasks}
    count = {
        label: sum(row[task] == best[task] for task in block.tasks) for label, row in rows.items()
    }
    leads = sorted((label for label in count if count[label]), key=lambda label: -count[label])
    return ", ".join(f"{label} {count[label]}" for label in leads)


def equal_forwards(evidence: Evidence) -> str:
    """In how many averages MeZO is ahead of BSZO at an equal number of forward passes, and by how
    many points; likewise BSZO of MeZO."""
    gaps = _gaps(evidence, budget=0).values()
    sides = {"MeZO": [-gap for gap in gaps if gap < 0], "BSZO": [gap for gap in gaps if gap > 0]}
    texts = [
        f"{name} is ahead in {len(found)} of {len(gaps)} averages, by"
        f" {' to '.join(dict.fromkeys(f'{gap:.1f}' for gap in (min(found), max(found))))} points"
        for name, found in sides.items()
        if found
    ]
    return ", ".join(texts) or NOT_RUN


def equal_steps(evidence: Evidence) -> str:
    """In how many averages of each precision BSZO is ahead of MeZO after as many steps."""
    ahead: dict[str, list[bool]] = {}
    for (title, _), gap in _gaps(evidence).items():
        ahead.setdefault(title.rpartition(", ")[2], []).append(gap > 0)
    texts = (f"{sum(of)} of {len(of)} averages in {precision}" for precision, of in ahead.items())
    return " and ".join(texts) or NOT_RUN


def _gaps(evidence: Evidence, budget: int | None = None) -> dict[tuple[str, str], float]:
    """BSZO's average minus MeZO's in each block; at equal steps, or at one of the equal budgets."""
    gaps = {}
    for title, block in evidence.blocks(budget):
        for source in SOURCES:
            rows = numbers(block, source)
            if all(AVERAGE in rows.get(label, {}) for label in ("BSZO", "MeZO")):
                gaps[title, source] = rows["BSZO"][AVERAGE] - rows["MeZO"][AVERAGE]
    return gaps


def bszo_b(evidence: Evidence) -> str:
    gaps = [
        gap
        for _, gap in evidence.paired(
            "optimizer", "bszo-b", "bszo", "table1", "table3", wanted=CORRECTED
        )
    ]
    if not gaps:
        return NOT_RUN
    return f"the same test accuracy in {sum(gap == 0 for gap in gaps)} of {len(gaps)} pairs of runs"


def hizoo(evidence: Evidence) -> str:
    """How far apart HiZOO's and MeZO's cells are in each precision, and how many of them chose
    different rates."""
    gaps: dict[str, list[float]] = {}
    others: dict[str, int] = {}
    rates_of = {
        tuple(sorted(point.items())): record["config"]["optimizer"]["lr"]
        for point, record in evidence.cells("table1", "table3")
    }
    for point, gap in evidence.paired(
        "optimizer", "hizoo", "mezo", "table1", "table3", wanted=CORRECTED
    ):
        gaps.setdefault(point["precision"], []).append(abs(gap))
        chosen = {
            rates_of[tuple(sorted({**point, "optimizer": name}.items()))]
            for name in ("hizoo", "mezo")
        }
        others[point["precision"]] = others.get(point["precision"], 0) + len(chosen) - 1
    each = [
        f"in {name} {statistics.fmean(values):.2f} points apart on average over {len(values)} pairs"
        f" of runs, at most {max(values):.2f} ({others[name]} of them at other rates)"
        for name, values in gaps.items()
    ]
    return "; ".join(each) or NOT_RUN


def words(evidence: Evidence) -> str:
    """What `corrected` gains over `official` in each task, for the masked model."""
    return _by_task(evidence, "table1")


def words_causal(evidence: Evidence) -> str:
    """The same in fp32 for the causal model, whose label words are the same under both."""
    return _by_task(evidence, "table3", precision="fp32")


def _by_task(evidence: Evidence, name: str, **wanted: str) -> str:
    gaps: dict[str, list[float]] = {}
    for point, gap in evidence.paired("fidelity", "corrected", "official", name, wanted=wanted):
        gaps.setdefault(shown(TASKS, point["task"]), []).append(gap)
    return (
        ", ".join(f"{task} {statistics.fmean(values):+.1f}" for task, values in gaps.items())
        or NOT_RUN
    )


FINDINGS = (
    size,
    steps,
    rates,
    passes,
    averages,
    equal_forwards,
    equal_steps,
    bszo_b,
    hizoo,
    words,
    words_causal,
)
