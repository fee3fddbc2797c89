"""Step benchmark: steps, noise, evaluation and memory of this library, in turns with the published
procedures.

    python -m scripts.bench.step --model opt-125m --dtype float32 --repeats 5 --out DIR

The weights are random, since neither time nor memory depends on their values. Every figure is a
median with its spread, from the lowest to the highest of the repeats. Every ratio is one of medians
of runs that took turns.
"""

import argparse
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bszo import BSZO, LOZO, EachBSZO, EachMeZO, HiZOO, MeZO, MeZOAdam
from bszo.allocator import keep_freed_memory
from bszo.models.shapes import refill
from bszo.perturb import noise
from experiments import ROOT
from experiments.training.resident import reset_resident_peak, resident_peak
from scripts.bench.published import PUBLISHED
from scripts.bench.setting import Setting, alternate, summary

# dense state in the parameters' type, as the published code has it
OURS: dict[str, Callable[..., Any]] = {
    "BSZO": BSZO,
    "BSZO-B": partial(BSZO, reuse_observations=False),
    "MeZO": MeZO,
    "MeZO-Adam": partial(MeZOAdam, state_dtype="parameter"),
    "HiZOO": partial(HiZOO, state_dtype="parameter"),
    "LOZO": LOZO,
}
# a direction for each example of the batch; beside the published procedure that shares one
EACH: dict[str, Callable[..., Any]] = {
    "MeZO, own directions": EachMeZO,
    "BSZO, own directions": EachBSZO,
    "MeZO, own directions, stacked": partial(EachMeZO, stacked=True),
    "BSZO, own directions, stacked": partial(EachBSZO, stacked=True),
}
# directions of low rank, of which no layer's perturbed weight is made
FACTORED: dict[str, Callable[..., Any]] = {
    "LOZO, factored": partial(LOZO, perturbation="factored"),
    "BSZO, factored": partial(BSZO, law="low-rank", perturbation="factored"),
}
METHODS = OURS | EACH | FACTORED
AT_THETA = {"BSZO": 1, "BSZO-B": 1, "HiZOO": 1}  # losses of a step that are taken at theta itself


def bench_steps(setting: Setting, methods: list[str], repeats: int) -> dict[str, Any]:
    """Time a step of each method: as published, in this library, and our forward passes alone."""
    report: dict[str, Any] = {}
    for method in methods:
        ours = METHODS[method](setting.params, lr=1e-9, module=setting.model)
        closure = setting.each if method in EACH else setting.loss
        published = published_like(method)(setting.params)
        forwards = published.num_forwards
        runs = {
            "published": lambda p=published: p.step(setting.published_loss),
            "ours": lambda o=ours, c=closure: o.step(c),
            "forwards": lambda n=forwards: [setting.loss() for _ in range(n)],
        }
        times = {name: summary(s) for name, s in alternate(setting, runs, repeats).items()}
        report[method] = {
            **times,
            "num_forwards": forwards,
            "bytes": traffic(setting.params, method),
            "faster_than_published": times["published"]["median"] / times["ours"]["median"],
            "over_forwards": times["ours"]["median"] / times["forwards"]["median"],
        }
        print(
            f"{method:20s} published {times['published']['median']:7.3f} s   ours"
            f" {times['ours']['median']:7.3f} s   {report[method]['faster_than_published']:5.2f}x"
            f" faster   {report[method]['over_forwards']:5.2f}x its {forwards} forwards",
            flush=True,
        )
        del ours, published, runs
        refill(setting.model)
        gc.collect()
        if setting.device == "cuda":
            torch.cuda.empty_cache()
    return report


def published_like(method: str) -> Any:
    """Return the published procedure that takes as many forward passes."""
    return PUBLISHED[method.partition(",")[0]]


def traffic(params: Sequence[torch.Tensor], method: str) -> int:
    """Return the bytes that a step must move beside its forward passes.

    The parameters are read and written once for each perturbed pass and once for the update. What a
    method keeps (moments, curvature) comes on top; rows that nobody looks up come off. Where layers
    add what a direction does to their answers, no parameter is perturbed, but for the few that
    `factored` leaves.
    """
    perturbed = 0
    if method in OURS:
        perturbed = PUBLISHED[method].num_forwards - AT_THETA.get(method, 0)
    return 2 * (perturbed + 1) * sum(p.numel() * p.element_size() for p in params)


def bench_bandwidth(setting: Setting, repeats: int) -> dict[str, float]:
    """Measure the bytes a second that a copy reads and writes. No cache holds it, and it is so long
    that its launch does not count."""
    source = torch.ones(
        500_000_000 if setting.device == "cuda" else 20_000_000, device=setting.device
    )
    target = torch.empty_like(source)
    seconds = alternate(setting, {"copy": lambda: target.copy_(source)}, repeats)["copy"]
    rate = 2 * source.numel() * source.element_size() / statistics.median(seconds)
    print(f"bandwidth  {rate / 1e9:.1f} GB/s", flush=True)
    return {"bytes_per_second": rate}


def bench_noise(setting: Setting, repeats: int, count: int = 20_000_000) -> dict[str, Any]:
    """Measure how many values a second are added to a tensor: by the compiled kernel, on a CPU in
    eager PyTorch, too, and by torch.normal with an add."""
    theta = torch.zeros(count, device=setting.device)

    def library() -> None:
        theta.add_(torch.normal(0.0, 1.0, size=theta.shape, device=setting.device), alpha=1e-9)

    runs = {
        "compiled": lambda: noise.shift(theta, 0, {1: 1e-9}, out=theta, fused=True),
        "eager": lambda: noise.shift(theta, 0, {1: 1e-9}, out=theta),
        "torch.normal": library,
    }
    if setting.device == "cuda":  # where a GPU has a kernel, noise is always made by it
        del runs["eager"]
    rates = {
        name: count / statistics.median(s) for name, s in alternate(setting, runs, repeats).items()
    }
    print(
        "noise      " + "   ".join(f"{name} {rate / 1e6:.0f} M/s" for name, rate in rates.items()),
        flush=True,
    )
    return {"values_per_second": rates}


def bench_evaluation(setting: Setting, repeats: int) -> dict[str, Any]:
    """Measure how many examples a second are scored, batched and with one option in each forward
    pass."""
    runs = {
        "batched": lambda: setting.evaluate(True),
        "one option a pass": lambda: setting.evaluate(False),
    }
    times = {name: summary(s) for name, s in alternate(setting, runs, repeats).items()}
    rates = {name: len(setting.encoded) / t["median"] for name, t in times.items()}
    ratio = rates["batched"] / rates["one option a pass"]
    shown = "   ".join(f"{name} {rate:.1f} examples/s" for name, rate in rates.items())
    print(f"evaluation {shown}   {ratio:.1f}x", flush=True)
    return {"examples_per_second": rates, "seconds": times, "ratio": ratio}


def peak_bytes(args: argparse.Namespace, setting: "Setting | None", what: str) -> int:
    """Return the peak memory of three steps of a method ("ours:BSZO"), or of three losses
    ("inference").

    It is the peak of CUDA's allocator where the setting lies on a GPU, else the resident set of a
    process of its own.
    """
    if setting is not None:
        return peak_here(setting, what)
    command = [sys.executable, "-m", "scripts.bench.step", "--peak-of", what]
    for name in ("model", "dtype", "device", "batch", "length", "threads"):
        command += [f"--{name}", str(getattr(args, name))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return int(done.stdout.strip().splitlines()[-1])


def peak_here(setting: Setting, what: str) -> int:
    """Return `peak_bytes` of this process."""
    which, _, name = what.partition(":")
    closure = setting.published_loss if which == "published" else setting.loss
    if name in EACH and which == "ours":
        closure = setting.each
    optimizer = None
    if which == "ours":
        optimizer = METHODS[name](setting.params, lr=1e-9, module=setting.model)
    elif which == "published":
        optimizer = published_like(name)(setting.params)
    cuda = setting.device == "cuda"
    if cuda:
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    else:
        # the peak of making random weights is not the step's
        reset_resident_peak()
    for _ in range(3):
        closure() if optimizer is None else optimizer.step(closure)
    return torch.cuda.max_memory_allocated() if cuda else resident_peak()


def bench_memory(args: argparse.Namespace) -> dict[str, Any]:
    """Measure the peak bytes of each method, as published and in this library, and their ratio to
    inference."""
    setting = Setting(args) if args.device == "cuda" else None
    inference = peak_bytes(args, setting, "inference")
    report: dict[str, Any] = {
        "kind": "cuda allocator" if args.device == "cuda" else "resident set",
        "inference": inference,
    }
    for method in args.methods:
        ours, published = (
            peak_bytes(args, setting, f"{which}:{method}") for which in ("ours", "published")
        )
        report[method] = {
            "ours": ours,
            "published": published,
            "ours_over_inference": ours / inference,
        }
        print(
            f"memory     {method:10s} ours {ours / 1e9:.2f} GB ({ours / inference:.2f}x inference) "
            f"  published {published / 1e9:.2f} GB",
            flush=True,
        )
    return report


def machine(args: argparse.Namespace) -> dict[str, Any]:
    """Describe what the numbers depend on, without the machine's name."""
    cpu = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    git = partial(subprocess.run, capture_output=True, text=True, check=False)
    commit = git(["git", "rev-parse", "HEAD"])
    changes = git(["git", "status", "--porcelain"])
    return {
        "device": torch.cuda.get_device_name() if args.device == "cuda" else cpu,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "load_average": os.getloadavg()[0],
        "commit": None if commit.returncode else commit.stdout.strip(),
        "dirty": None if changes.returncode else bool(changes.stdout.strip()),
        "weights": "random",
    }


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", default="opt-125m", help="opt-125m ... opt-13b, mistral-7b, roberta-large"
    )
    parser.add_argument("--dtype", default="float32", choices=["float32", "float16", "bfloat16"])
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"]
    )
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=32, help="tokens of a prompt")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--out", type=Path, help="folder for the JSON; none is written without it")
    parser.add_argument(
        "--no-memory", action="store_true", help="leave out the memory runs, a process each"
    )
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Run every part and write one JSON."""
    args = parse()
    keep_freed_memory()  # as runs do
    torch.set_num_threads(args.threads)
    if args.peak_of:
        print(peak_here(Setting(args), args.peak_of))
        return
    setting = Setting(args)
    shape = {name: getattr(args, name) for name in ("model", "dtype", "batch", "length", "repeats")}
    print(
        f"{args.model} {args.dtype}, batch {args.batch} x {args.length} tokens, {args.repeats}"
        f" repeats, {sum(p.numel() for p in setting.params) / 1e6:.0f} M parameters",
        flush=True,
    )
    report: dict[str, Any] = {
        "machine": machine(args),
        "setting": shape,
        "steps": bench_steps(setting, args.methods, args.repeats),
        "noise": bench_noise(setting, args.repeats),
        "bandwidth": bench_bandwidth(setting, args.repeats),
        "evaluation": bench_evaluation(setting, args.repeats),
    }
    del setting
    gc.collect()
    report["memory"] = None if args.no_memory else bench_memory(args)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        path = args.out / f"{args.model}-{args.dtype}-{args.device}.json"
        path.write_text(json.dumps(report, indent=1) + "\n")
        print(path)


if __name__ == "__main__":
    main()
