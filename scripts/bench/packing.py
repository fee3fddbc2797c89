"""A training batch's loss, padded and packed (`bszo.models.packing`): all texts in one row, in few
rows, and in few rows with the options of an example behind one copy of their prompt.

    python -m scripts.bench.packing --data DIR    # some ten minutes of a core

It writes results/measured/bench/packing.json: seconds of the processor, and positions.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from bszo.allocator import keep_freed_memory
from bszo.models import LanguageModel, packing
from bszo.models.batch import Batch
from experiments.config.compose import compose
from experiments.config.schema import parse
from experiments.records.provenance import of_script
from experiments.tables.sources import MEASURED
from experiments.training.build import build
from scripts.bench.setting import alternate, summary

# the name of a layout -> the width of its rows, and the way in which texts are kept apart
LAYOUTS: dict[str, tuple[int, packing.Way | None]] = {
    "padded": (0, None),
    "one row": (10**9, "positions"),
    "few rows": (packing.WIDTH, "positions"),
    "few rows, shared": (packing.WIDTH, "mask"),
}


@torch.no_grad()
def losses(model: LanguageModel, batches: Sequence[Batch], layout: str) -> list[float]:
    """The loss of each batch in one layout."""
    width, way = LAYOUTS[layout]
    model.traits = replace(model.traits, packed=() if way is None else (way,))
    before, packing.WIDTH = packing.WIDTH, width
    try:
        return [model.loss(replace(batch)).item() for batch in batches]  # packed anew each time
    finally:
        packing.WIDTH = before


def measured(options: argparse.Namespace, task: str) -> dict[str, Any]:
    """Positions, seconds and losses of a task's first batches."""
    overrides = [f"model={options.model}", "data=local", f"data.root={options.data}"]
    overrides += [f"task={task}", "task.num_validation=50", "protocol=real", "tracker=none"]
    overrides += [f"precision={options.precision}", "threads=1", "model.packed=false"]
    parts = build(parse(compose(overrides)))
    model, count = parts.model, options.rows * options.batches
    chosen = torch.randperm(len(parts.train), generator=torch.Generator().manual_seed(0))[:count]
    batches = [
        model.collate([parts.train[i] for i in part.tolist()])
        for part in chosen.split(options.rows)
    ]
    runs: dict[str, Callable[[], Any]] = {
        layout: partial(losses, model, batches, layout) for layout in LAYOUTS
    }
    idle = SimpleNamespace(ready=lambda: None)
    seconds = alternate(idle, runs, options.repeats, time.process_time)
    positions = {"padded": sum(batch.input_ids.numel() for batch in batches)}
    for layout, (_, way) in LAYOUTS.items():
        if way is not None and layout != "one row":
            tight = [packing.in_few_rows(batch, way) for batch in batches]
            positions[layout] = sum(batch.input_ids.numel() for batch in tight)
    return {
        "positions": positions,
        "seconds": {layout: summary(taken) for layout, taken in seconds.items()},
        "times_as_fast": {
            layout: [a / b for a, b in zip(seconds["padded"], taken, strict=True)]
            for layout, taken in seconds.items()
        },
        "losses": {layout: run() for layout, run in runs.items()},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="rows, as data=local reads them")
    parser.add_argument("--out", type=Path, default=MEASURED / "bench" / "packing.json")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--tasks", nargs="+", default=["sst2", "copa", "rte", "boolq"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batches", type=int, default=2)
    parser.add_argument("--rows", type=int, default=16)
    options = parser.parse_args(arguments)
    made = of_script("scripts.bench.packing", arguments)
    torch.set_num_threads(1)
    keep_freed_memory()
    found = {}
    for task in options.tasks:
        found[task] = measured(options, task)
        for layout, taken in found[task]["seconds"].items():
            ratios = sorted(found[task]["times_as_fast"][layout])
            positions = found[task]["positions"].get(layout, "")
            print(
                f"{task:6s} {layout:18s} {taken['median']:6.2f} s ({taken['min']:.2f} to"
                f" {taken['max']:.2f}), {ratios[len(ratios) // 2]:.2f} times as fast as padded"
                f" ({ratios[0]:.2f} to {ratios[-1]:.2f}), {positions}",
                flush=True,
            )
    setting = {name: getattr(options, name) for name in ("model", "precision", "batches", "rows")}
    facts = {"setting": setting, "tasks": found, "provenance": made}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print(options.out)


if __name__ == "__main__":
    main()
