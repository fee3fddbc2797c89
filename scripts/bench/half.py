"""A forward pass in 16 bits on a processor without instructions for them: its products as torch
takes them, and in fp32 (`bszo.half`).

    python -m scripts.bench.half    # five minutes of a core; results/measured/bench/half.json
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import torch

from bszo import half
from bszo.allocator import keep_freed_memory
from bszo.models import random_model
from experiments.records.provenance import of_script
from experiments.tables.sources import MEASURED
from scripts.bench.setting import alternate, summary

DTYPES: tuple[Literal["float32", "bfloat16", "float16"], ...] = ("float32", "bfloat16", "float16")


@torch.no_grad()
def run(model: Any, ids: torch.Tensor, *, widened: bool) -> None:
    """One pass; a widened one widens wherever the processor would not."""
    with half.fast_products(model) if widened else nullcontext():
        model(input_ids=ids)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=MEASURED / "bench" / "half.json")
    parser.add_argument("--model", default="opt-125m")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--length", type=int, default=32)
    options = parser.parse_args(arguments)
    made = of_script("scripts.bench.half", arguments)
    torch.set_num_threads(1)
    keep_freed_memory()
    ids = torch.randint(5, 1000, (options.rows, options.length))
    runs: dict[str, Any] = {}
    for dtype in DTYPES:
        model = random_model(options.model, dtype=dtype)
        runs[dtype] = partial(run, model, ids, widened=False)
        if dtype != "float32":
            runs[f"{dtype}, in fp32"] = partial(run, model, ids, widened=True)
    seconds = alternate(SimpleNamespace(ready=lambda: None), runs, options.repeats)
    facts = {
        "setting": {"model": options.model, "rows": options.rows, "length": options.length},
        "seconds": {name: summary(taken) for name, taken in seconds.items()},
        "times_as_fast": {
            dtype: [
                a / b for a, b in zip(seconds[dtype], seconds[f"{dtype}, in fp32"], strict=True)
            ]
            for dtype in DTYPES[1:]
        },
        "provenance": made,
    }
    for name, taken in facts["seconds"].items():
        print(f"{name:18s} {taken['median']:.2f} s ({taken['min']:.2f} to {taken['max']:.2f})")
    for dtype, ratios in facts["times_as_fast"].items():
        said = f"{statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})"
        own = ", as it has instructions for them" if half.is_native(getattr(torch, dtype)) else ""
        print(f"{dtype}: products in fp32 are {said} times as fast{own}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(facts, indent=1) + "\n")
    print(options.out)


if __name__ == "__main__":
    main()
