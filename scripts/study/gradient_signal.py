"""Signal: how much of a batch's gradient is that of all training rows, by kind of parameter.

    python -m scripts.study.gradient_signal --real DIR               # SmolLM2-135M before training
    python -m scripts.study.gradient_signal --real DIR --log FILE    # and after a run of MeZO

    signal = |grad L|^2,    batch = mean_b |grad L_b|^2,    L = mean_b L_b

L_b is the loss of batch b. The slope that a zeroth-order step sees is that of its batch, and of its
square the share signal / batch is worth following; the rest is the batch's own. The gradients are
true ones, in fp32. The batches are of groups, each of which goes through the rows in an order of
its own, and the signal is the mean of the products of the groups' mean gradients, two different
ones at a time: the square of one mean would count the batches' noise as signal. Its standard error
is that of leaving out one group after the other, which is too large rather than too small where the
signal is near 0.

DIR has the rows as data=local reads them, and FILE is the log of a run of `sweep=real` with
`optimizer=mezo optimizer.lr=3e-5`. It writes results/measured/gradient_signal.json.
"""

import argparse
import itertools
import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bszo.files import written_whole
from bszo.models import Encoded, LanguageModel, weights_fingerprint
from bszo.tasks import batches
from bszo.trajectory import read, replay
from experiments.config.compose import compose
from experiments.config.schema import parse
from experiments.records.provenance import of_script
from experiments.tables.sources import MEASURED
from experiments.training.build import build
from scripts.study.agreement import FAR, REAL

RUN = ("optimizer=mezo", "optimizer.lr=3e-5", "optimizer.eps=1e-3", "precision=bf16-sr")
BATCH, BATCHES, GROUPS = 16, 60, 4


def kind(module: nn.Module, name: str) -> str:
    """What a parameter is: "embeddings" (with a tied head), "vectors", or its layer's own name."""
    owner = module.get_submodule(name.rpartition(".")[0])
    if isinstance(owner, nn.Embedding):
        return "embeddings"
    if module.get_parameter(name).ndim == 1:
        return "vectors"
    return "matrices" if owner is module else name.split(".")[-2]


def group_means(
    model: LanguageModel, parameters: Mapping[str, nn.Parameter], groups: Sequence[Any]
) -> tuple[list[dict[str, Tensor]], dict[str, float]]:
    """The mean gradient of each group of batches, and mean_b |grad L_b|^2 of each parameter."""
    means: list[dict[str, Tensor]] = []
    squares: defaultdict[str, float] = defaultdict(float)
    count = sum(len(group) for group in groups)
    for group in groups:
        mean = {name: torch.zeros_like(p) for name, p in parameters.items()}
        for batch in group:
            loss = model.loss(model.collate(batch))
            found = torch.autograd.grad(loss, list(parameters.values()))
            for name, gradient in zip(parameters, found, strict=True):
                mean[name] += gradient / len(group)
                squares[name] += float(gradient.double().square().sum()) / count
        means.append(mean)
    return means, dict(squares)


def signal(means: Sequence[Tensor]) -> tuple[float, float]:
    """|grad L|^2 from the mean gradients of groups, and its standard error.

    The mean over the pairs of different groups of their inner products, which is unbiased; the
    error is the jackknife's.
    """
    products = {
        pair: float((means[pair[0]].double() * means[pair[1]].double()).sum())
        for pair in itertools.combinations(range(len(means)), 2)
    }

    def mean(without: int | None = None) -> float:
        used = [value for pair, value in products.items() if without not in pair]
        return math.fsum(used) / len(used)

    left_out = [mean(i) for i in range(len(means))]
    centre, count = math.fsum(left_out) / len(left_out), len(left_out)
    spread = math.fsum((value - centre) ** 2 for value in left_out)
    return mean(), math.sqrt(spread * (count - 1) / count)


def by_kind(
    model: LanguageModel, examples: Sequence[Encoded], seed: int, count: int = BATCHES
) -> dict[str, Any]:
    """Signal, its error, and the batches' squares of each kind of parameter, and of all."""
    orders = [batches(len(examples), BATCH, seed + FAR + group) for group in range(GROUPS)]
    groups = [
        [[examples[i] for i in next(order)] for _ in range(count // GROUPS)] for order in orders
    ]
    parameters = dict(model.module.named_parameters())
    with torch.enable_grad():
        means, squares = group_means(model, parameters, groups)
    members: defaultdict[str, list[str]] = defaultdict(list)
    for name in parameters:
        members[kind(model.module, name)].append(name)
        members["all"].append(name)
    facts = {}
    for what, names in members.items():
        flat = [torch.cat([mean[name].flatten() for name in names]) for mean in means]
        found, error = signal(flat)
        facts[what] = {
            "elements": sum(parameters[name].numel() for name in names),
            "signal": found,
            "standard_error": error,
            "batch": math.fsum(squares[name] for name in names),
        }
    return facts


def measured(root: str, log: Path | None) -> dict[str, Any]:
    """The facts at the base model, or at the end of a run's log."""
    trajectory = read(log) if log is not None else None
    seed = trajectory.header.settings["seed"] if trajectory is not None else 0
    more = (f"seed={seed}", f"data.root={root}", "fidelity=corrected", "tracker=none", "threads=1")
    config = compose([*REAL, *RUN, *more])
    parts, steps = build(parse(config)), 0
    if trajectory is not None:
        steps = len(trajectory.steps)
        replay(trajectory, parts.optimizer, base=weights_fingerprint(parts.model.module))
    parts.model.module.float()  # the points of a run in 16 bits, their gradients in 32
    return {"steps": steps, "kinds": by_kind(parts.model, parts.train, config["seed"])}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--real", metavar="DIR", required=True, help="rows, as data=local reads")
    parser.add_argument("--log", type=Path, action="append", default=[], metavar="FILE")
    parser.add_argument("--out", type=Path, default=MEASURED / "gradient_signal.json")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    made = of_script("scripts.study.gradient_signal", arguments)
    points = []
    for log in (None, *options.log):
        points.append(measured(options.real, log))
        for what, facts in points[-1]["kinds"].items():
            print(
                f"after {points[-1]['steps']} steps, {what}: signal {facts['signal']:.2f} +-"
                f" {facts['standard_error']:.2f} of {facts['batch']:.2f}",
                flush=True,
            )
    report = {"batch": BATCH, "batches": BATCHES, "points": points, "provenance": made}
    with written_whole(options.out) as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(options.out)


if __name__ == "__main__":
    main()
