"""How far the examples of a batch agree, which decides whether a direction for each of them pays.

    python -m scripts.study.agreement       # some minutes; results/measured/agreement.json
    python -m scripts.study.agreement --real DIR    # SmolLM2-135M before training, too

    agreement = B |grad L|^2 / mean_e |grad l_e|^2,    L = (1/B) sum_e l_e,    between 0 and B

A step along one direction for all examples has the variance n |grad L|^2, one along a direction for
each n mean_e |grad l_e|^2 / B. The agreement is the first over the second. Above 1 own directions
are the less noisy ones at equal passes, and below 1 the shared one is. The gradients are true ones,
of the weights that own directions move, which are those of linear layers; they are measured before
training and along a run of `optimizer=mezo-each` at the rate of `sweep=each`.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bszo.files import written_whole
from bszo.models import EachLoss, Encoded, LanguageModel
from bszo.optim.per_example import PerExampleOptimizer
from bszo.tasks import batches
from experiments.config.compose import compose
from experiments.config.schema import parse
from experiments.records.provenance import of_script
from experiments.tables.sources import MEASURED
from experiments.training.build import build

TASKS = ("sst2", "rte", "cb", "wic", "trec", "copa", "wsc", "boolq")
TINY = ("model=tiny-opt", "data=mini", "protocol=table", "fidelity=corrected")
REAL = ("model=smollm2-135m", "data=local", "protocol=real", "task=sst2", "task.num_validation=256")
RATE = "optimizer.lr=3e-4"  # of the table
STEPS = (0, 50, 100, 200)
BATCH, BATCHES = 16, 8
FAR = 1 << 20  # a seed's distance from that of the run, whose batches are others


def agreement(gradients: Sequence[Sequence[Tensor]]) -> float:
    """B |grad L|^2 / mean_e |grad l_e|^2 of the gradients of B losses, a tensor a parameter."""
    count = len(gradients)
    own = [sum(float(g.double().square().sum()) for g in each) for each in gradients]
    shared = sum(
        float(torch.stack(parts).mean(0).double().square().sum())
        for parts in zip(*gradients, strict=True)
    )
    return count * shared / statistics.fmean(own)


def of_batch(model: LanguageModel, weights: Sequence[Tensor], examples: Sequence[Encoded]) -> float:
    """The agreement of one batch."""
    gradients = [
        torch.autograd.grad(model.losses(model.collate([example])).sum(), weights)
        for example in examples
    ]
    return agreement(gradients)


def weights_of(optimizer: PerExampleOptimizer) -> list[Tensor]:
    """Return the parameters that own directions move."""
    params = optimizer.trainable()
    return [params[i] for i in sorted(optimizer.moved_of(params))]


def along(overrides: Sequence[str], steps: Sequence[int], count: int = BATCHES) -> dict[str, Any]:
    """Return the agreement of some batches at these steps of a run."""
    config = compose([*overrides, "optimizer=mezo-each", RATE, "tracker=none", "threads=1"])
    parts = build(parse(config))
    seed, train, optimizer = config["seed"], parts.train, parts.optimizer
    assert isinstance(optimizer, PerExampleOptimizer)
    weights = weights_of(optimizer)
    order = batches(len(train), BATCH, seed)
    measured: list[dict[str, Any]] = []
    for step in range(max(steps) + 1):
        if step in steps:
            others = batches(len(train), BATCH, seed + FAR)
            values = [
                of_batch(parts.model, weights, [train[i] for i in next(others)])
                for _ in range(count)
            ]
            measured.append({"step": step, "agreement": values})
        if step < max(steps):
            batch = parts.model.collate([train[i] for i in next(order)])
            optimizer.step(EachLoss(parts.model, batch))
    return {"model": config["model"]["name"], "task": config["task"]["name"], "along": measured}


def shown(run: dict[str, Any]) -> str:
    """A line: the mean and the standard deviation over the batches at each step."""
    parts = (
        f"step {at['step']}: {statistics.fmean(at['agreement']):.2f} +-"
        f" {statistics.stdev(at['agreement']):.2f}"
        for at in run["along"]
    )
    return f"{run['model']} {run['task']}: {', '.join(parts)}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--real", metavar="DIR", help="rows for SmolLM2-135M, as data=local reads")
    parser.add_argument("--tasks", nargs="+", default=TASKS, choices=TASKS)
    parser.add_argument("--out", type=Path, default=MEASURED / "agreement.json")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    made = of_script("scripts.study.agreement", arguments)
    runs = []
    for task in options.tasks:
        runs.append(along((*TINY, f"task={task}"), STEPS))
        print(shown(runs[-1]), flush=True)
    if options.real:
        runs.append(along((*REAL, f"data.root={options.real}"), (0,)))
        print(shown(runs[-1]), flush=True)
    facts = {"batch": BATCH, "batches": BATCHES, "runs": runs, "provenance": made}
    with written_whole(options.out) as temporary:
        temporary.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print(options.out)


if __name__ == "__main__":
    main()
