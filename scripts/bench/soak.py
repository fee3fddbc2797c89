"""Soak test (`make soak`): long runs of every zeroth-order method must not take more and more.

Each method takes 2,000 steps in three precisions, and neither memory nor the number of open files
may grow.

    python -m scripts.bench.soak [--steps N] [--methods NAME ...] [--precisions NAME ...] [--jobs N]
    [--out FILE]

Each case has a process of its own, --jobs of them run at a time, and its figures are written as
soon as it ends. Cases that the file already has, of the same clean commit, versions and number of
steps, are not run again, so that the same command goes on after a stop. The exit code is 0 where
nothing grew and every step was exact, 1 otherwise.
"""

import argparse
import gc
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from transformers import OPTConfig, OPTForCausalLM

import bszo
from bszo.errors import ConfigError, NonFiniteLoss
from bszo.files import written_whole
from bszo.models import weights_fingerprint
from experiments import CONF
from experiments.config.compose import compose
from experiments.config.schema import parse
from experiments.records.provenance import of_script
from experiments.tables.sources import MEASURED
from experiments.training.build import make_optimizer

METHODS = sorted(path.stem for path in (CONF / "optimizer").glob("*.yaml"))
PRECISIONS = ("fp32", "bf16", "fp16")
SAMPLES = 20  # over a case
WARM_UP = 0.25  # of the steps: allocators and caches fill
MOST_GROWTH = 0.02
# weights as large as a trained model's: at OPT's 0.02 the derivatives of float16 norms overflow
SIZE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 16,
    "word_embed_proj_dim": 16,
    "ffn_dim": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "dropout": 0.0,
    "pad_token_id": 1,
    "init_std": 0.2,
}


@dataclass(frozen=True)
class Sample:
    """What a process holds at one moment: resident bytes, open files and live tensors."""

    bytes: int
    files: int
    tensors: int


def take_sample() -> Sample:
    """Take a sample after a garbage collection, so that neither what waits for one nor what was
    frozen before counts."""
    gc.collect()
    tensors = sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())
    process = psutil.Process()
    return Sample(process.memory_info().rss, process.num_fds(), tensors)


def growth(values: Sequence[int]) -> float:
    """Return by what share the maximum after the warm-up exceeds the maximum within it."""
    border = max(1, round(WARM_UP * len(values)))
    return max(values[border:]) / max(1, *values[:border]) - 1


def problems(samples: Sequence[Sample], drift: float) -> list[str]:
    """Say what is wrong, each in a few words."""
    found = [
        f"{name} grew by {100 * share:.1f} %"
        for name, share in (
            ("resident memory", growth([sample.bytes for sample in samples])),
            ("live tensors", growth([sample.tensors for sample in samples])),
        )
        if share > MOST_GROWTH
    ]
    if growth([sample.files for sample in samples]) > 0:
        found.append(f"open files grew from {samples[0].files} to {samples[-1].files}")
    return found + ([f"at lr 0 a weight moved by {drift:.3g}"] if drift else [])


def tiny_model(dtype: torch.dtype) -> tuple[nn.Module, Callable[[], Tensor]]:
    """Build a random OPT of a few thousand weights, and the losses of one batch, (4,)."""
    torch.manual_seed(0)
    module: Any = OPTForCausalLM(OPTConfig(**SIZE))
    module.to(dtype).eval()
    ids = torch.randint(2, 97, (4, 16), generator=torch.Generator().manual_seed(1))

    def losses() -> Tensor:
        logits = module(input_ids=ids).logits[:, :-1].float()
        return nn.functional.cross_entropy(logits.mT, ids[:, 1:], reduction="none").mean(1)

    # of each position: some layers of OPT see all of them in one axis
    losses.examples = (torch.arange(4)[:, None].expand(4, 16),)  # type: ignore[attr-defined]
    return module, losses


def without_rates(node: Any) -> Any:
    """Return an optimizer's configuration with every learning rate zero."""
    if isinstance(node, dict):
        return {key: 0.0 if key == "lr" else without_rates(value) for key, value in node.items()}
    return node


def soak(method: str, precision: str, steps: int) -> dict[str, Any] | None:
    """Measure one case; the result is None for a method that follows true gradients alone."""
    torch.set_num_threads(1)
    run = parse(compose([f"optimizer={method}", f"precision={precision}", "device=cpu"]))
    module, losses = tiny_model(getattr(torch, run.precision.dtype))
    model: Any = SimpleNamespace(module=module)
    try:
        optimizer: Any = make_optimizer(run.optimizer_node, model)
    except ConfigError as refused:  # as a run would be, before anything moves
        return {"steps": 0, "refused": str(refused), "problems": []}
    if isinstance(optimizer, bszo.FirstOrder):
        return None
    closure: Any = losses if optimizer.per_example else lambda: losses().mean()
    gc.collect()
    gc.freeze()  # what is there now is not gone through at every look
    before = weights_fingerprint(module)
    samples, every, last = [], max(1, steps // SAMPLES), 0.0
    start = time.perf_counter()
    try:
        for step in range(steps):
            last = float(optimizer.step(closure))
            if (step + 1) % every == 0:
                samples.append(take_sample())
    except NonFiniteLoss as error:
        return {"steps": optimizer.num_steps, "problems": [str(error)]}
    finally:
        gc.unfreeze()
    seconds = time.perf_counter() - start
    trained = [parameter.detach().clone() for parameter in module.parameters()]
    exact: Any = make_optimizer(without_rates(run.optimizer_node), model)
    for _ in range(max(1, steps // 10)):
        exact.step(closure)
    drift = max(
        float((a - b).detach().abs().max())
        for a, b in zip(module.parameters(), trained, strict=True)
    )
    found = problems(samples, drift)
    return {
        "steps": steps,
        "seconds": round(seconds, 2),
        "last_loss": last,
        "moved": before != weights_fingerprint(module),
        "resident_bytes": [samples[0].bytes, samples[-1].bytes],
        "growth": growth([s.bytes for s in samples]),
        "files": [samples[0].files, samples[-1].files],
        "tensors": [samples[0].tensors, samples[-1].tensors],
        "drift_at_lr_0": drift,
        "problems": found,
    }


def valid_cases(path: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Return the cases of an earlier report that still hold: of the same steps, versions and
    commit, without uncommitted changes."""
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
        told = [there["steps"], there["provenance"]["commit"], there["provenance"]["versions"]]
        clean = not there["provenance"]["dirty"] and not facts["provenance"]["dirty"]
    except (OSError, ValueError, LookupError, TypeError):
        return {}
    same = clean and told == [
        facts["steps"],
        facts["provenance"]["commit"],
        facts["provenance"]["versions"],
    ]
    return there["cases"] if same and told[1] is not None else {}


def line(name: str, case: dict[str, Any]) -> str:
    """Describe a case in one line."""
    said = "; ".join(case["problems"]) or case.get("refused", "flat, exact")
    method, precision = name.split()
    measured = f"{'-':>9}  {'-':>7}"
    if "growth" in case:
        measured = f"{case['seconds']:7.1f} s  {100 * case['growth']:+5.2f} %"
    return f"{method:<20} {precision:<5} {measured}  {said}"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--out", type=Path, default=MEASURED / "soak.json")
    arguments = parser.parse_args(argv)
    if arguments.steps < 2:
        parser.error("--steps: at least 2, one to warm up and one to look at")
    torch.set_num_threads(1)  # what the provenance says of every case
    facts = {
        "steps": arguments.steps,
        "provenance": of_script("scripts.bench.soak", argv),
    }
    cases = valid_cases(arguments.out, facts)
    wanted = [
        (m, p) for m in arguments.methods for p in arguments.precisions if f"{m} {p}" not in cases
    ]
    fresh = multiprocessing.get_context("spawn")  # one case's memory is not another's
    with ProcessPoolExecutor(arguments.jobs, mp_context=fresh, max_tasks_per_child=1) as pool:
        running = {pool.submit(soak, *pair, arguments.steps): " ".join(pair) for pair in wanted}
        for ended in as_completed(running):
            if (case := ended.result()) is None:
                continue
            cases[running[ended]] = case
            with written_whole(arguments.out) as temporary:
                report = {**facts, "cases": dict(sorted(cases.items()))}
                temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
            print(line(running[ended], case), flush=True)
    return 1 if any(case["problems"] for case in cases.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
