"""Greedy against sampled answers as the objective of `examples/reward.py`.

    python -m scripts.study.sampled    # about ten minutes; results/measured/sampled.json

`differences`: L(theta + eps z) - L(theta - eps z) of the untrained model along common directions z.
Their standard deviation is taken with the draws of one step at both points, as training has them,
and with the draws of two. `runs`: the example itself with sampled answers, judged by greedy ones.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bszo.files import written_whole
from bszo.perturb.noise import values
from examples.reward import DIRECTIONS, SEEDS, SEEN, STEPS, beginnings, model_for, shown, trained
from experiments.records.provenance import of_script
from experiments.tables.sources import MEASURED

SAMPLES = 4
NUMBERS, LENGTHS, NUM_Z = (0, 1, SAMPLES), (1e-3, 1e-2), 32
FAR = 10_000  # from one step's draws to those of another


def differences(samples: int, eps: float, count: int = NUM_Z) -> dict[str, Any]:
    """Return how often the loss is equal on both sides, and how far it differs where the draws are
    common and where they are not."""
    model = model_for(samples)
    seen, params = model.encode(beginnings(SEEN)), list(model.module.parameters())
    theta = [p.detach().clone() for p in params]

    @torch.no_grad()
    def loss(length: float, z: int, step: int) -> float:
        for i, (p, start) in enumerate(zip(params, theta, strict=True)):
            p.copy_(start + length * values(start.shape, i, z))
        return model.loss(model.collate(seen, step=step)).item()

    plus = [loss(eps, z, z) for z in range(count)]
    common = [a - loss(-eps, z, z) for z, a in enumerate(plus)]
    apart = [a - loss(-eps, z, z + FAR) for z, a in enumerate(plus)] if samples else None
    return {
        "samples": samples,
        "eps": eps,
        "directions": count,
        "equal": sum(d == 0 for d in common) / count,
        "std_common": statistics.pstdev(common),
        "std_apart": None if apart is None else statistics.pstdev(apart),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=MEASURED / "sampled.json")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    made = of_script("scripts.study.sampled", arguments)
    found = []
    for samples in NUMBERS:
        for eps in LENGTHS:
            found.append(differences(samples, eps))
            print(found[-1], flush=True)
    runs = []
    for seed in SEEDS:
        runs.append(trained(seed, samples=SAMPLES))
        print(shown(runs[-1]), flush=True)
    facts = {
        "steps": STEPS,
        "directions": DIRECTIONS,
        "samples": SAMPLES,
        "differences": found,
        "runs": runs,
        "provenance": made,
    }
    with written_whole(options.out) as temporary:
        temporary.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print(options.out)


if __name__ == "__main__":
    main()
