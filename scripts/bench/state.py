"""State benchmark: the bytes that each optimizer keeps beyond the parameters, as n and k grow (a
measurement of Table 2).

    python -m scripts.bench.state    # under a minute on a core; results/measured/bench/state.json

The model is ten linear layers of one width in fp32, on the CPU. The optimizers are those of
`conf/optimizer/*.yaml` with the default fidelity, built as a run builds them. Each has three
numbers:

- kept: the tensors that can be reached from the optimizer between two steps and are not the
    model's, listed by the attribute that holds them (`state` is torch's own, `_engine` has the
    buffers of the perturbation engine);
- elsewhere: what the allocator still holds after the steps although no optimizer can reach it,
    which are caches of the library;
- during_step: by how much the bytes alive in a step exceed those at its start, at most, less the
    same number for one forward pass, as the CPU's allocator reports them to torch's profiler.
"""

import argparse
import functools
import gc
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from types import SimpleNamespace
from typing import Any

# the profiler reports its own start and stop otherwise
os.environ.setdefault("KINETO_LOG_LEVEL", "6")

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile, record_function

from bszo.perturb.noise import eager
from experiments.config.compose import compose
from experiments.records.provenance import of_script
from experiments.tables.sources import MEASURED
from experiments.training.build import make_optimizer

METHODS = ("mezo", "mezo-adam", "hizoo", "lozo", "bszo", "bszo-b")
WIDTHS = (10, 25, 63, 158, 398, 1000)  # n from 1,100 to 10,010,000
KS = (1, 2, 4, 8, 16)
LAYERS = 10
MARK = "the measured step"


def network(width: int) -> nn.Sequential:
    """Build ten linear layers: n = 10 (width^2 + width), and each layer is a tenth of it."""
    generator = torch.Generator().manual_seed(0)
    layers = [nn.Linear(width, width) for _ in range(LAYERS)]
    with torch.no_grad():
        for p in (p for layer in layers for p in layer.parameters()):
            p.copy_(torch.randn(p.shape, generator=generator) / width**0.5)
    return nn.Sequential(*layers).eval()


def storages(root: Any, seen: set[int]) -> Iterator[tuple[int, int]]:
    """Yield (address, bytes) of the storage of every tensor that can be reached from `root`;
    modules and types are left out."""
    stack = [root]
    while stack:
        item = stack.pop()
        if id(item) in seen or isinstance(item, (nn.Module, type, str, bytes, int, float)):
            continue
        seen.add(id(item))
        if isinstance(item, Tensor):
            yield item.untyped_storage().data_ptr(), item.untyped_storage().nbytes()
            stack.append(item.grad)
        elif isinstance(item, Mapping):
            stack += [*item.keys(), *item.values()]
        elif isinstance(item, (Sequence, Set)):
            stack += list(item)
        elif isinstance(item, functools.partial):
            stack += [item.func, item.args, item.keywords]
        else:
            stack += [
                vars(item) if hasattr(item, "__dict__") else None,
                getattr(item, "__self__", None),
            ]
            stack += [cell.cell_contents for cell in getattr(item, "__closure__", None) or ()]


def held_bytes(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, int]:
    """Return the bytes by attribute. A storage that two attributes hold counts for the first, and
    `state` comes first."""
    seen: set[int] = set()
    counted = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    found: dict[str, int] = {}
    for name in sorted(vars(optimizer), key=lambda name: (name != "state", name)):
        for address, num_bytes in storages(vars(optimizer)[name], seen):
            if address not in counted:
                counted.add(address)
                found[name] = found.get(name, 0) + num_bytes
    return {name: num_bytes for name, num_bytes in found.items() if num_bytes}


def allocations(run: Callable[[], None]) -> tuple[int, int]:
    """Return the bytes alive when the marked part begins, and the most above that within it, from
    the allocator's own events."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    results: Any = profiler.profiler
    events = sorted(results.kineto_results.events(), key=lambda event: event.start_ns())
    mark = next(event for event in events if event.name() == MARK)
    alive = start = most = 0
    for event in events:
        if event.name() != "[memory]":
            continue
        alive += event.nbytes()
        if event.start_ns() < mark.start_ns():
            start = most = alive
        elif event.start_ns() <= mark.end_ns():
            most = max(most, alive)
    return start, most - start


def measure(node: dict[str, Any], width: int) -> dict[str, Any]:
    """Return the three numbers of one optimizer at one width, measured in its second step."""
    model = network(width)
    inputs = torch.randn(4, width, generator=torch.Generator().manual_seed(1))
    made: list[torch.optim.Optimizer] = []

    def loss() -> float:
        with torch.no_grad():
            return float(model(inputs).square().mean())

    def forward() -> None:
        with record_function(MARK):
            loss()

    def steps() -> None:
        holder: Any = SimpleNamespace(module=model)
        made.append(make_optimizer(node, holder))
        made[0].step(loss)
        with record_function(MARK):
            made[0].step(loss)

    # else only the first optimizer of a size would be seen to fill it
    eager._counters.cache_clear()
    gc.collect()  # what an earlier measurement left must not be freed within this one
    loss()
    _, forward_bytes = allocations(forward)
    start, most = allocations(steps)
    owned = held_bytes(made[0], model)
    return {
        "width": width,
        "n": sum(p.numel() for p in model.parameters()),
        "kept": owned,
        "elsewhere": start - sum(owned.values()),
        "during_step": most - forward_bytes,
    }


def node_of(method: str, *overrides: str) -> dict[str, Any]:
    """Compose `conf/optimizer/<method>.yaml` as a run has it."""
    return compose([f"optimizer={method}", *overrides])["optimizer"]


def report(
    methods: Sequence[str], widths: Sequence[int], ks: Sequence[int], width_of_k: int
) -> dict[str, Any]:
    """Measure every method over n, and BSZO over k (m = k + 1, as its default) at one n."""
    over_n: dict[str, list[dict[str, Any]]] = {}
    for method in methods:
        node = node_of(method)
        over_n[method] = [measure(node, width) for width in widths]
        last = over_n[method][-1]
        print(
            f"{method:10s} n {last['n']:,}: kept {last['kept']}, elsewhere {last['elsewhere']:,}, "
            f"during a step {last['during_step']:,} bytes",
            flush=True,
        )
    over_k: dict[str, list[dict[str, Any]]] = {}
    for method in (name for name in methods if name.startswith("bszo")):
        nodes = [(k, node_of(method, f"optimizer.k={k}", f"optimizer.m={k + 1}")) for k in ks]
        over_k[method] = [{"k": k, **measure(node, width_of_k)} for k, node in nodes]
        print(f"{method:10s} k {ks}: kept {[row['kept'] for row in over_k[method]]}", flush=True)
    return {"over_n": over_n, "over_k": over_k}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=MEASURED / "bench" / "state.json")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--widths", nargs="+", type=int, default=WIDTHS)
    parser.add_argument("--ks", nargs="+", type=int, default=KS)
    parser.add_argument("--width-of-k", type=int, default=158, help="width at which k grows")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    start = time.perf_counter()
    measured = report(options.methods, options.widths, options.ks, options.width_of_k)
    setting = {
        "model": f"{LAYERS} linear layers",
        "dtype": "float32",
        "device": "cpu",
        "fidelity": "corrected",
    }
    origin = of_script("scripts.bench.state", arguments)
    facts = {
        "setting": setting,
        **measured,
        "provenance": origin,
        "seconds": round(time.perf_counter() - start, 1),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(facts, indent=1) + "\n")
    print(options.out)


if __name__ == "__main__":
    main()
