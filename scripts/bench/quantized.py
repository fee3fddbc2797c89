"""Memory of a quantised base: the resident bytes of a process that fine-tunes by LoRA.

    python -m scripts.bench.quantized    # five minutes of a core; measured/bench/quantized.json

Each row is a process of its own: it loads the base, attaches LoRA, takes a step of 16 tokens, so
that the optimizer's state is there, and then one step at each length, of one example. What counts
is the kernel's peak of resident bytes within a step (VmHWM, set back before it) beyond what was
resident when the libraries were loaded and the model was not.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bszo.models import collate, load_model, tuning
from experiments.config.compose import compose
from experiments.config.schema import parse
from experiments.records.provenance import of_script
from experiments.tables.sources import MEASURED
from experiments.training.build import make_optimizer
from experiments.training.resident import reset_resident_peak, resident_now, resident_peak
from scripts.bench.setting import examples

MODEL = "cache:smollm2-135m@b179c9523d0e"
METHODS = {
    "MeZO": ("mezo",),
    "AdamW": ("adamw",),
    "AdamW, gradient checkpointing": ("adamw", "optimizer.gradient_checkpointing=true"),
}
BASES = {"none": tuple(METHODS), "nf4": tuple(METHODS), "int8": ("MeZO",)}
LENGTHS = (128, 512, 2048)
WARM = 16
# memory that is free goes back to the system at once, rather than count as resident
HONEST = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}


def trimmed() -> int:
    """Resident bytes once what is free was given back, from where the peak counts anew."""
    gc.collect()
    reset_resident_peak()
    now = resident_now()
    assert now is not None, "this system does not say what is resident"
    return now


def row(base: Any, method: str, lengths: Sequence[int]) -> dict[str, Any]:
    """What a process holds with the base and its adapter, and the peak of a step at each length."""
    torch.set_num_threads(1)
    load_model("asset:tiny-opt", dtype="bfloat16", quantization=base)  # loads the libraries
    before = trimmed()
    model = tuning.lora(load_model(MODEL, dtype="bfloat16", quantization=base))
    loaded = trimmed()
    name, *overrides = METHODS[method]
    config = parse(compose([f"optimizer={name}", *overrides]))
    optimizer: Any = make_optimizer(config.optimizer_node, model)
    peaks, seconds = {}, {}
    for length in (WARM, *lengths):
        batch = collate(examples(1, length), pad_id=model.pad_id, device="cpu")
        trimmed()
        began = time.perf_counter()
        optimizer.step(lambda b=batch: model.loss(b))
        seconds[length], peaks[length] = time.perf_counter() - began, resident_peak() - before
    return {
        "held": loaded - before,
        "peaks": {str(length): peaks[length] for length in lengths},
        "seconds": {str(length): round(seconds[length], 2) for length in lengths},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=MEASURED / "bench" / "quantized.json")
    parser.add_argument("--lengths", nargs="+", type=int, default=LENGTHS)
    parser.add_argument("--row", nargs=2, metavar=("BASE", "METHOD"), help="of a process's own")
    options = parser.parse_args(arguments)
    if options.row:
        base, method = options.row
        print(json.dumps(row(base, method, options.lengths)))
        return
    origin = of_script("scripts.bench.quantized", arguments)
    rows: dict[str, dict[str, Any]] = {}
    for base, methods in BASES.items():
        rows[base] = {}
        for method in methods:
            own = ["--row", base, method, "--lengths", *map(str, options.lengths)]
            said = subprocess.run(
                [sys.executable, "-m", "scripts.bench.quantized", *own],
                env={**os.environ, **HONEST},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            ).stdout
            rows[base][method] = json.loads(said.splitlines()[-1])
            print(f"{base:5s} {method:30s} {rows[base][method]}", flush=True)
    facts = {
        "setting": {"model": MODEL, "dtype": "bfloat16", "batch": 1, "tuning": "lora"},
        "rows": rows,
        "provenance": origin,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(facts, indent=1) + "\n")
    print(options.out)


if __name__ == "__main__":
    main()
