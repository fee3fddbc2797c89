"""Memory benchmark: the bytes beyond the parameters at the peak of a training step, for
first-order, forward-mode and zeroth-order methods.

    python -m scripts.bench.memory    # ten minutes of a core; results/measured/bench/memory.json

The model has OPT-125M's shape and random weights in fp32, on the CPU. Methods and schemes are those
of `conf/optimizer` and `conf/tuning`, built as a run builds them. The peak is that of the second
step, when the optimizer's state is there, as the CPU's allocator reports it to torch's profiler. It
contains activations, tangents, gradients, state, and whatever a step needs for a moment.
"""

import argparse
import gc
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.profiler import record_function

from bszo.models import LanguageModel, random_model, tuning
from bszo.models.batch import collate
from bszo.perturb.noise import eager
from experiments.config.compose import compose
from experiments.config.schema import parse
from experiments.records.provenance import of_script
from experiments.tables.sources import MEASURED
from experiments.training.build import make_optimizer
from scripts.bench.setting import examples
from scripts.bench.state import MARK, allocations

METHODS = {  # those of sweep=zo_bench under its table's names, and what else there is
    "SGD": ("sgd",),
    "AdamW": ("adamw",),
    "AdamW, gradient checkpointing": ("adamw", "optimizer.gradient_checkpointing=true"),
    "Hybrid: AdamW for the last block": ("hybrid",),
    "Forward-Grad": ("forward-grad",),
    "ZO-SGD (MeZO)": ("mezo",),
    "ZO-SGD (MeZO), block-wise": ("mezo", "directions.blocks=transformer"),
    "ZO-SGD (MeZO), 50% sparse": ("mezo", "directions.sparsity=0.5"),
    "MeZO-BCD": ("mezo-bcd",),
    "ZO-SGD-Sign": ("zo-sgd-sign",),
    "ZO-SGD-Cons": ("zo-sgd-cons",),
    "FZOO": ("fzoo", "optimizer.num_directions=2"),
    "BSZO": ("bszo",),
    "LOZO": ("lozo",),
    "LOZO-M": ("lozo-m",),
    "SubZero": ("subzero",),
    "HiZOO": ("hizoo",),
    "ZO-SGD-MMT": ("zo-sgd-mmt",),
    "ZO-Adam (MeZO-Adam)": ("mezo-adam",),
    # memory does not depend on it
    "ZO-Adam from its history": ("mezo-adam-history", "optimizer.window=2"),
}
IN_BLOCKS = ("Hybrid: AdamW for the last block", "ZO-SGD (MeZO), block-wise", "MeZO-BCD")
REFUSED = {
    # a layer's second pass would find its keys in the cache
    ("prefix", "AdamW, gradient checkpointing"),
    # virtual tokens lie in no block
    *((scheme, method) for scheme in ("prefix", "prompt") for method in IN_BLOCKS),
}
SCHEMES = ("full", "lora", "prefix", "prompt")


class Vocabulary:
    """A stand-in for a tokenizer: the batch is made of ids, and a tuning scheme asks for no more
    than the length."""

    is_fast = True
    pad_token_id = eos_token_id = bos_token_id = 1

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size


def optimizer_of(method: str, *overrides: str) -> dict[str, Any]:
    """Return the configuration from which a run builds its optimizer, directions included."""
    return parse(compose([f"optimizer={method}", *overrides])).optimizer_node


def model_of(name: str, scheme: str) -> LanguageModel:
    """Build the shape with random weights and apply the tuning scheme, with the settings of
    `conf/tuning`."""
    module = random_model(name, dtype="float32", device="cpu")
    config: Any = module.config
    tokenizer: Any = Vocabulary(config.vocab_size)
    model = LanguageModel(module, tokenizer, style="causal", max_length=512, name=name)
    return model if scheme == "full" else getattr(tuning, scheme)(model)


def peak(model: LanguageModel, node: dict[str, Any], batch: int, length: int) -> int:
    """Return the bytes beyond the parameters at the peak of the second step."""
    encoded = collate(examples(batch, length), pad_id=1, device="cpu")
    optimizer = make_optimizer(node, model)

    def step() -> None:
        optimizer.step(lambda: model.loss(encoded))  # type: ignore[arg-type]

    def steps() -> None:
        step()
        with record_function(MARK):
            step()

    gc.collect()  # what an earlier measurement left must not be freed within this one
    eager._counters.cache_clear()  # else only the first method of a size would be seen to fill it
    start, most = allocations(steps)
    return start + most


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=MEASURED / "bench" / "memory.json")
    parser.add_argument("--model", default="opt-125m", help="a shape of bszo.models.shapes")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--schemes", nargs="+", default=SCHEMES, choices=SCHEMES)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=64)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    # of the code that runs now
    origin = of_script("scripts.bench.memory", arguments)
    began, schemes = time.perf_counter(), {}
    for scheme in options.schemes:
        rows: dict[str, int] = {}
        for method in (name for name in options.methods if (scheme, name) not in REFUSED):
            model = model_of(options.model, scheme)
            rows[method] = peak(
                model, optimizer_of(*METHODS[method]), options.batch, options.length
            )
            print(f"{scheme:8s} {method:34s} {rows[method] / 2**20:10,.1f} MiB", flush=True)
        trained = sum(p.numel() for p in model.module.parameters() if p.requires_grad)
        schemes[scheme] = {"trained": trained, "bytes": rows}
    setting = {
        "model": options.model,
        "dtype": "float32",
        "device": "cpu",
        "batch": options.batch,
        "length": options.length,
    }
    facts = {
        "setting": setting,
        "schemes": schemes,
        "seconds": round(time.perf_counter() - began, 1),
        "provenance": origin,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(facts, indent=1) + "\n")
    print(options.out)


if __name__ == "__main__":
    main()
