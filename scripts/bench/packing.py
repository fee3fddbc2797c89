"""Batches padded and packed (`bszo.models.packing`).

A training batch's loss: all texts in one row, in few rows, and in few rows with what texts begin
with alike once, which is the prompt of options, or an instruction in front of all examples. The
scores of an evaluation: rows of like length, and packed; without and with training rows in front of
every prompt.

    python -m scripts.bench.packing --data DIR    # some twenty minutes of a core

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
from bszo.models.encode import Encoded
from experiments.config.compose import compose
from experiments.config.schema import parse
from experiments.records.provenance import of_script
from experiments.tables.sources import MEASURED
from experiments.training.build import Parts, build
from scripts.bench.setting import alternate, summary

SCORED, MAX_TOKENS = 32, 8192  # rows of an evaluation, and its bound of a pass
INSTRUCTIONS, SHOTS = (60, 200), (8, 32)  # tokens, training rows

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


def behind(example: Encoded, instruction: tuple[int, ...]) -> Encoded:
    """The example with tokens in front of each of its rows."""
    moved = len(instruction)
    options = (
        replace(option, columns=tuple(column + moved for column in option.columns))
        for option in example.options
    )
    rows = tuple(instruction + row for row in example.rows)
    return replace(example, rows=rows, options=tuple(options))


def setting(options: argparse.Namespace, task: str, *more: str) -> Parts:
    """The model and the rows of a task."""
    overrides = [f"model={options.model}", "data=local", f"data.root={options.data}"]
    overrides += [f"task={task}", f"task.num_validation={SCORED}", "tracker=none"]
    overrides += [f"precision={options.precision}", "threads=1", "model.packed=false", *more]
    return build(parse(compose(overrides)))


def compared(
    options: argparse.Namespace, runs: dict[str, Callable[[], Any]], first: str
) -> dict[str, Any]:
    """Seconds of runs that take turns, and how many times as fast as the first each is."""
    idle = SimpleNamespace(ready=lambda: None)
    seconds = alternate(idle, runs, options.repeats, time.process_time)
    return {
        "seconds": {layout: summary(taken) for layout, taken in seconds.items()},
        "times_as_fast": {
            layout: [a / b for a, b in zip(seconds[first], taken, strict=True)]
            for layout, taken in seconds.items()
        },
    }


def training(options: argparse.Namespace, task: str, length: int) -> dict[str, Any]:
    """Positions, seconds and losses of a task's first batches, behind so many tokens."""
    parts = setting(options, task, "protocol=real")
    model, count = parts.model, options.rows * options.batches
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(parts.train), generator=generator)[:count]
    ids = torch.randint(len(model.tokenizer), (length,), generator=generator)
    instruction = tuple(ids.tolist())
    batches = [
        model.collate([behind(parts.train[i], instruction) for i in part.tolist()])
        for part in chosen.split(options.rows)
    ]
    runs: dict[str, Callable[[], Any]] = {
        layout: partial(losses, model, batches, layout) for layout in LAYOUTS
    }
    positions = {"padded": sum(batch.input_ids.numel() for batch in batches)}
    for layout, (_, way) in LAYOUTS.items():
        if way is not None and layout != "one row":
            common = [packing.common_beginning(packing.texts_of(batch)) for batch in batches]
            tight = [
                packing.in_few_rows(batch, way, common=c)
                for batch, c in zip(batches, common, strict=True)
            ]
            positions[layout] = sum(batch.input_ids.numel() for batch in tight)
    found = compared(options, runs, "padded")
    return {"positions": positions, **found, "losses": {name: run() for name, run in runs.items()}}


def evaluation(options: argparse.Namespace, task: str, shots: int) -> dict[str, Any]:
    """Seconds of a task's first validation rows, behind so many training rows."""
    more = ["tuning=in-context", f"tuning.num_shots={shots}", "protocol=zero-shot"]
    parts = setting(options, task, *(more if shots else ("protocol=real",)))
    model, rows = parts.model, parts.validation[:SCORED]

    def scores(ways: tuple[packing.Way, ...]) -> torch.Tensor:
        model.traits = replace(model.traits, packed=ways)
        return model.score_all(rows, max_tokens=MAX_TOKENS)

    runs: dict[str, Callable[[], Any]] = {
        "by length": partial(scores, ()),
        "packed": partial(scores, ("positions", "mask")),
    }
    found = compared(options, runs, "by length")
    apart = (runs["by length"]() - runs["packed"]()).abs()
    return {**found, "largest_difference": apart[apart.isfinite()].max().item()}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="rows, as data=local reads them")
    parser.add_argument("--out", type=Path, default=MEASURED / "bench" / "packing.json")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--tasks", nargs="+", default=["sst2", "copa", "rte", "boolq"])
    parser.add_argument("--scored", nargs="+", default=["sst2", "copa", "rte"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batches", type=int, default=2)
    parser.add_argument("--rows", type=int, default=16)
    options = parser.parse_args(arguments)
    made = of_script("scripts.bench.packing", arguments)
    torch.set_num_threads(1)
    keep_freed_memory()
    trained = {task: training(options, task, 0) for task in options.tasks}
    for length in INSTRUCTIONS:
        trained[f"sst2 behind {length} tokens"] = training(options, "sst2", length)
    scored = {task: evaluation(options, task, 0) for task in options.scored}
    for shots in SHOTS:
        scored[f"sst2 behind {shots} rows"] = evaluation(options, "sst2", shots)
    for case, found in (*trained.items(), *scored.items()):
        for layout, taken in found["seconds"].items():
            ratios = sorted(found["times_as_fast"][layout])
            print(
                f"{case:22s} {layout:18s} {taken['median']:6.2f} s ({taken['min']:.2f} to"
                f" {taken['max']:.2f}), {ratios[len(ratios) // 2]:.2f} times as fast as the first"
                f" ({ratios[0]:.2f} to {ratios[-1]:.2f})"
            )
    names = ("model", "precision", "batches", "rows")
    facts = {
        "setting": {name: getattr(options, name) for name in names},
        "training": trained,
        "evaluation": scored,
        "provenance": made,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print(options.out)


if __name__ == "__main__":
    main()
