"""results/README.md: the state of every table and figure, what the numbers show, and the numbered deviations.

`make results/README.md`; loads neither torch nor Hydra.
"""

import json
import statistics
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.files import written_whole
from experiments.grid import load, read
from experiments.selection import Shelf
from experiments.tables import published
from experiments.tables.accuracy import AVERAGE, blocks
from experiments.tables.command import Inputs, titled
from experiments.tables.configured import SAME, hyperparameters, splits
from experiments.tables.sources import RUNS

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
# artefact -> the sweeps that it is made of
SWEEPS = {
    "table1": ("table1",),
    "table3": ("table3",),
    "table5": ("table5a", "table5b", "table5c", "table5d"),
    "table11": ("table1",),
    "table12": ("table5a", "table5b", "table12c"),
    "zo_bench": ("zo_bench",),
    "figure1": ("figure1",),
    "figure_gain": ("table3", "figure1"),
}
STUDIES = {
    "table2": ("bench/state.json", "bytes of optimizer state, growing models and k = 1 ... 16"),
    "figure_theory": ("theory.json", "Theorem 3.7, Eq. 55, Corollaries 3.6 and 4.3 by measurement"),
    "figure_drift": ("walk/*.json", "drift and perplexity at learning rate 0"),
}


def swept(sweeps: tuple[str, ...], profile: str, inputs: Inputs) -> str:
    """ "180 of 300 runs ok, 2 diverged" of the runs that the artefact's cells need in a profile."""
    statuses: Counter[str] = Counter()
    for sweep in sweeps:
        if profile not in read(sweep)["profiles"]:
            return ""
        grid = load(sweep, profile)
        shelf = Shelf(inputs.records(profile))
        for point in grid.points:
            choice = shelf.choose(grid, point)
            record = shelf.find(choice.point) if choice.point else None
            statuses[record["status"] if record else "failed" if choice.failed else "missing"] += 1
    total = sum(statuses.values())
    if statuses["missing"] == total:
        return "not run"
    failed = "".join(f", {count} {status}" for status, count in statuses.items() if status not in ("ok", "missing"))
    whole = "complete" if not statuses["missing"] else "partial"
    return f"{whole}: {statuses['ok']} of {total} runs ok{failed}"


def configured(sections: list) -> str:
    verdicts = Counter(row[-1] for section in sections for row in section.rows if row[-1])
    return f"the configuration files agree in {verdicts[SAME]} of {sum(verdicts.values())} rows"


def benched() -> str:
    """Which models the benchmark was run on, and where."""
    found = []
    for file in sorted((RESULTS / "bench").glob("*.json")):
        content = json.loads(file.read_text(encoding="utf-8"))
        if "setting" in content and "steps" in content:
            found.append(
                f"{content['setting']['model']} {content['setting']['dtype']} on {content['machine']['device']}"
            )
    return "; ".join(found) or "not run"


def rows() -> list[tuple[str, str, str]]:
    """(artefact, the paper's models, ours)."""
    inputs = Inputs(RUNS)
    lines = [
        (titled(name), swept(sweeps, "paper", inputs), swept(sweeps, "mini", inputs)) for name, sweeps in SWEEPS.items()
    ]
    for name, (pattern, what) in STUDIES.items():
        there = any(RESULTS.glob(pattern))
        lines.append((titled(name), "-", f"measured: {what}" if there else "not run"))
    lines.append(("Table 4, Figure 2", "not run (needs a GPU)" if "cuda" not in benched() else "measured", benched()))
    lines.append(("Table 6", configured([splits()]), "-"))
    lines += [(f"Table {n}", configured([hyperparameters(n)]), "-") for n in (7, 8, 9, 10)]
    return sorted(lines, key=lambda line: (not line[0].startswith("Table"), len(line[0].split(",")[0]), line[0]))


def findings() -> list[str]:
    """A line a block of tables 1 and 3 in the mini profile: averages, and who leads how many tasks."""
    inputs, lines = Inputs(RUNS), []
    for artefact, kind in (("table1", published.table1()), ("table3", published.table3())):
        for block in blocks(load(artefact, "mini"), inputs.records("mini"), kind):
            numbers = {label: row for (label, source), row in block.numbers.items() if source == "corrected"}
            averages = ", ".join(f"{label} {row[AVERAGE]:.1f}" for label, row in numbers.items() if AVERAGE in row)
            leads: Counter[str] = Counter()
            for task in block.tasks:
                best = max((row[task] for row in numbers.values() if task in row), default=None)
                leads.update(label for label, row in numbers.items() if best is not None and row.get(task) == best)
            leaders = ", ".join(f"{label} {count}" for label, count in leads.most_common())
            if averages:
                lines.append(f"- {titled(artefact)}, {block.title}, corrected. Averages over {len(block.tasks)} tasks: "
                             f"{averages}. Best of a task, ties counted for each: {leaders}.")  # fmt: skip
    return lines


def gains() -> str:
    """BSZO's gain at the end of its runs: the median by model and precision."""
    found: dict[tuple[str, str], list[float]] = {}
    for record in Inputs(RUNS).records("mini"):
        choices = record["choices"]
        ours = choices["optimizer"] == "bszo" and choices["fidelity"] == "corrected" and choices["tuning"] == "full"
        last = record["curve"][-1]["gain"] if ours else None
        if last is not None and record["config"]["optimizer"]["k"] == 2:
            found.setdefault((choices["model"], choices["precision"]), []).append(last)
    medians = ", ".join(f"{model} {precision} {statistics.median(values):.2g} ({len(values)} runs)"
                        for (model, precision), values in sorted(found.items()))  # fmt: skip
    return f"- BSZO's gain mu / y at the end of a run, median, corrected, k = 2: {medians}."


def main() -> int:
    texts = [
        "<!-- generated by scripts/results_readme.py from records, findings.md and deviations.md -->",
        "# What there is, and what deviates",
        "",
        "| artefact | the paper's models | on this machine (mini profile, or measured) |",
        "| --- | --- | --- |",
        *("| " + " | ".join(line) + " |" for line in rows()),
        "",
        "## What the mini profile shows, and what it cannot",
        "",
        *findings(),
        gains(),
        "",
        (RESULTS / "findings.md").read_text(encoding="utf-8").rstrip(),
        "",
        (RESULTS / "deviations.md").read_text(encoding="utf-8").rstrip(),
    ]
    with written_whole(RESULTS / "README.md") as temporary:
        temporary.write_text("\n".join(texts) + "\n", encoding="utf-8")
    print("results/README.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
