"""What `find_lr` recommends for settings whose rates are recorded, beside those records.

    python -m scripts.study.find_lr    # results/measured/find_lr.json

Settings that the file holds already are not run again at the same commit.

A recorded run takes 200 steps at a rate and is judged by the accuracy of its best evaluation; the
range test takes 20 steps and looks at the loss. Both have the same model, rows and batch size.
"""

import argparse
import functools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bszo.files import written_whole
from experiments.config.compose import compose
from experiments.find_lr import tested
from experiments.records.provenance import of_script
from experiments.records.store import PACKED
from experiments.sweeps.grid import load, next_rate
from experiments.sweeps.selection import Shelf
from experiments.tables.inputs import Inputs
from experiments.tables.sources import MEASURED

# the artefact whose records have it, model, task, optimizer
SETTINGS = (
    ("table3", "tiny-opt", "rte", "mezo"),
    ("table3", "tiny-opt", "sst2", "bszo"),
    ("table1", "tiny-roberta", "sst2", "bszo"),
    ("table1", "tiny-roberta", "cb", "mezo"),
)
STEPS, REPEATS, HELD = 20, 8, 64
HALF_DECADE = 10 / 3 * 1.001  # from 3 to 10, a little more than half of one


@functools.cache
def packed() -> Shelf:
    """The records in git of the profile mini."""
    return Shelf(Inputs(PACKED).records("mini"))


def recorded(artefact: str, model: str, task: str, optimizer: str) -> dict[float, float]:
    """Return rate -> validation accuracy of the runs that chose this setting's rate."""
    grid, shelf = load(artefact, "mini"), packed()
    wanted = {"model": model, "task": task, "optimizer": optimizer, "precision": "fp32"}
    wanted |= {"seed": "0", "fidelity": "corrected"}
    point = next(p for p in grid.points if wanted.items() <= p.items())
    return {
        float(rate): accuracy
        for rate, accuracy in shelf.choose(grid, point).validation.items()
        if accuracy is not None
    }


def compare(artefact: str, model: str, task: str, optimizer: str) -> dict[str, Any]:
    """Return both choices, and what each rests on."""
    accuracies = recorded(artefact, model, task, optimizer)
    best = max(accuracies, key=lambda rate: (accuracies[rate], -rate))
    rates = [min(accuracies)]
    while rates[-1] <= max(accuracies):  # and one more
        rates.append(next_rate(rates[-1], up=True))
    config = compose(
        [
            f"model={model}",
            f"task={task}",
            f"optimizer={optimizer}",
            "protocol=table",
            "tracker=none",
            "device=cpu",
        ]
    )
    start = time.perf_counter()
    found = tested(config, rates=rates, steps=STEPS, repeats=REPEATS, held=HELD)
    print(f"{task}, {model}, {optimizer}\n{found}", flush=True)
    near = found.lr is not None and max(found.lr / best, best / found.lr) <= HALF_DECADE
    return {
        "model": model,
        "task": task,
        "optimizer": optimizer,
        "recorded": {f"{rate:g}": accuracy for rate, accuracy in sorted(accuracies.items())},
        "best": best,
        "found": found.lr,
        "within_half_a_decade": near,
        "reason": found.reason,
        "probes": [
            {"lr": p.lr, "change": p.change, "error": p.error}
            if not p.diverged
            else {"lr": p.lr, "change": None, "error": None}
            for p in found.probes
        ],
        "num_forwards": found.num_forwards,
        "seconds": round(time.perf_counter() - start, 1),
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as text; validation accuracies in percent."""
    lines = [f"{'setting':<26}{'recorded':<40}{'best':>8}{'found':>8}  within half a decade"]
    for row in rows:
        setting = f"{row['task']}, {row['model']}, {row['optimizer']}"
        seen = ", ".join(f"{rate}: {100 * a:.1f}" for rate, a in row["recorded"].items())
        found = "none" if row["found"] is None else f"{row['found']:g}"
        near = "yes" if row["within_half_a_decade"] else "no"
        lines.append(f"{setting:<26}{seen:<40}{row['best']:>8g}{found:>8}  {near}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=MEASURED / "find_lr.json")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    settings = {"steps": STEPS, "repeats": REPEATS, "held_rows": HELD}
    made = of_script("scripts.study.find_lr", arguments)
    facts = json.loads(options.out.read_text()) if options.out.is_file() else {}
    # rows of another commit, or of one with changes, would be given the name of this one
    there = facts.get("provenance", {})
    clean = made["dirty"] is False and there.get("dirty") is False
    same = clean and there.get("commit") == made["commit"]
    rows = facts["rows"] if same and settings.items() <= facts.items() else []
    done = {(row["model"], row["task"], row["optimizer"]) for row in rows}
    for setting in SETTINGS:
        if setting[1:] not in done:
            rows.append(compare(*setting))
            facts = {**settings, "rows": rows, "provenance": made}
            with written_whole(options.out) as temporary:
                temporary.write_text(json.dumps(facts, indent=1) + "\n")
    print(table(rows))
    print(options.out)


if __name__ == "__main__":
    main()
