"""Drift of the weights under perturbation.

    python -m experiments.check_drift model=... precision=... [steps=N] [eps=X]

MeZO takes steps with lr = 0, once with each way to perturb. The weights should be what they were;
how far they are from it is the error of that way. Other arguments are overrides as for
`experiments.run`. Exit codes: 0 ok, 1 wrong arguments, 2 the exact engine drifts.
"""

import sys
from collections.abc import Sequence
from typing import Any

import torch

from bszo.errors import BszoError, ConfigError
from bszo.tasks import batches
from experiments.config.compose import compose
from experiments.config.schema import parse
from experiments.training.build import Parts, build, make_optimizer
from experiments.training.drift import changed, drift

ENGINES = ("exact", "two-leg", "three-leg", "in-place")
SHORT = {"steps": "protocol.num_steps", "eps": "optimizer.eps"}
FIXED = ("optimizer=mezo", "optimizer.lr=0")
FIRST = ("tracker=none", "protocol=smoke", "protocol.num_steps=100")  # others may be typed


def overrides(arguments: Sequence[str]) -> list[str]:
    """Return the Hydra overrides of the command line, after those that make it this check.

    Raises:
        ConfigError: one of them would make it another check.
    """
    fixed = {override.partition("=")[0] for override in FIXED}
    pairs = [argument.partition("=") for argument in arguments]
    if own := [f"{key}={value}" for key, _, value in pairs if key.lstrip("+~") in fixed]:
        raise ConfigError(f"{own[0]}: it is MeZO that steps here, with {FIXED[1]}")
    return [
        *FIXED,
        *FIRST,
        *(f"{SHORT.get(key, key)}{equals}{value}" for key, equals, value in pairs),
    ]


def drifts(config: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Return for each engine the drift of the weights, and the share of them that has changed."""
    run = parse(config)
    parts = build(run)
    parameters = [p for p in parts.model.module.parameters() if p.requires_grad]
    start = [p.detach().clone() for p in parameters]
    found = {}
    for engine in ENGINES:
        with torch.no_grad():
            for p, value in zip(parameters, start, strict=True):
                p.copy_(value)
        optimizer = make_optimizer(run.optimizer_node | {"perturbation": engine}, parts.model)
        _walk(parts, optimizer, run.protocol.num_steps, run.protocol.batch_size, run.seed)
        found[engine] = drift(parameters, start), changed(parameters, start)
    return found


def _walk(parts: Parts, optimizer: Any, num_steps: int, batch_size: int, seed: int) -> None:
    order = batches(len(parts.train), batch_size, seed)
    for step in range(num_steps):
        batch = parts.model.collate([parts.train[index] for index in next(order)], step=step)
        optimizer.step(lambda batch=batch: parts.model.loss(batch))


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    try:
        config = compose(overrides(sys.argv[1:] if argv is None else argv))
        found = drifts(config)
    except BszoError as error:
        print(error, file=sys.stderr)
        return 1
    steps, eps = config["protocol"]["num_steps"], config["optimizer"]["eps"]
    print(
        f"{config['model']['path']}, {config['precision']['dtype']}: {steps} steps of MeZO at lr 0,"
        f" eps {eps:g}"
    )
    print(f"{'engine':<12}{'relative drift':>16}{'weights changed':>18}")
    for engine, (distance, share) in found.items():
        print(f"{engine:<12}{distance:>16.3e}{100 * share:>16.2f} %")
    return 2 if found["exact"] != (0.0, 0.0) else 0


if __name__ == "__main__":
    sys.exit(main())
