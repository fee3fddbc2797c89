"""Means: the scores of the mean of the weights of several runs, from their logs.

    python -m scripts.study.means --real DIR --method MeZO --log FILE FILE ..

The runs are of SmolLM2-135M on SST-2, of one method with different seeds. They are taken in groups
of 1, 2, 4 and so on, in the order given, no run in two groups of a size: so the scores of a size
are independent, and their spread is that of such a mean. DIR has the rows as data=local reads them.
A FILE is the log of a run of `sweep=real` with `checkpoint=trajectory`, METHOD its name in a table.
With `--start FILE FILE ..` the runs are a second round: they started from the mean of the weights
of these. Another `--start` makes them a third one, and so on. It writes
results/measured/means/<method>.json, with round and rate in the name of a later one, and the logs
beside it.
"""

import argparse
import json
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bszo.cli import replay
from bszo.files import written_whole
from bszo.models import LanguageModel
from bszo.models.evaluate import evaluate
from bszo.models.mean import Mean
from bszo.trajectory import read
from experiments.config.compose import compose
from experiments.config.schema import parse
from experiments.records.provenance import of_script
from experiments.tables.sources import MEASURED
from experiments.training.build import Parts, build
from scripts.study.agreement import REAL

# no step is taken, so that the optimizer is any
RUN = ("optimizer=mezo", "precision=bf16-sr", "fidelity=corrected", "tracker=none", "threads=1")
SPLITS = ("validation", "test")


@contextmanager
def started(rounds: Sequence[Sequence[Path]], base: str) -> Iterator[str]:
    """The model that the runs started from: the base, or after every round the mean of its runs.

    Raises:
        BszoError: a run of a round did not start where the round before ended.
    """
    with tempfile.TemporaryDirectory() as folder:
        for number, logs in enumerate(rounds):
            mean = Path(folder) / f"round-{number}"
            parser = argparse.ArgumentParser()
            replay.add_arguments(parser)
            replay.run(parser.parse_args([*map(str, logs), "--base", base, "--out", str(mean)]))
            base = str(mean)
        yield base


def trained(log: Path, base: str) -> tuple[dict[str, Any], list[Tensor]]:
    """What a run was, and the parameters that it ended with."""
    trajectory = read(log)
    header, last = trajectory.header, trajectory.steps[-1]
    facts = {
        "optimizer": header.optimizer,
        "seed": header.settings["seed"],
        "lr": last.lr[0],
        "steps": len(trajectory.steps),
        "num_forwards": sum(step.num_forwards for step in trajectory.steps),
        "log": log.name,
        "digest": trajectory.digest,
    }
    model = replay.replayed(str(log), trajectory, base=base)
    return facts, [p.detach().clone() for p in model.module.parameters()]


def groups(count: int) -> list[range]:
    """Of so many runs those of each group: 8 groups of one, then 4 of two, 2 of four, 1 of eight
    for 8 runs. A size that does not go into the count leaves out the last ones."""
    sizes = [2**i for i in range(count.bit_length())]
    return [
        range(start, start + size) for size in sizes for start in range(0, count - size + 1, size)
    ]


def put(model: LanguageModel, ends: Sequence[Sequence[Tensor]]) -> None:
    """Write the mean of several runs' parameters into the model."""
    mean = Mean()
    for end in ends:
        with torch.no_grad():
            for parameter, value in zip(model.module.parameters(), end, strict=True):
                parameter.copy_(value)
        mean.add(model.module)
    mean.put(model.module)


def scored(parts: Parts, max_tokens: int) -> dict[str, float]:
    """Loss and accuracy on the rows of validation and of test."""
    found = {}
    for split in SPLITS:
        score = evaluate(parts.model, getattr(parts, split), max_tokens)
        found[f"{split}_loss"], found[f"{split}_accuracy"] = score.loss, score.accuracy
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--real", metavar="DIR", required=True, help="rows, as data=local reads")
    parser.add_argument("--log", type=Path, nargs="+", required=True, metavar="FILE")
    parser.add_argument(
        "--start", type=Path, nargs="+", action="append", default=[], metavar="FILE"
    )
    parser.add_argument("--out", type=Path, default=MEASURED / "means", metavar="DIR")
    parser.add_argument("--method", required=True, metavar="METHOD", help="as a table names it")
    options = parser.parse_args(arguments)
    made = of_script("scripts.study.means", arguments)
    logs = [*options.log, *chain(*options.start)]
    if twice := [name for name, n in Counter(log.name for log in logs).items() if n > 1]:
        parser.error(f"{twice[0]}: {options.out} keeps the logs by their names; others are valid")
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    config = compose([*REAL, *RUN, f"data.root={options.real}"])
    parts = build(parse(config))
    with started(options.start, config["model"]["path"]) as base:
        runs, ends = zip(*(trained(log, base) for log in options.log), strict=True)
    means = []
    for group in groups(len(ends)):
        put(parts.model, [ends[i] for i in group])
        scores = scored(parts, config["protocol"]["eval_max_tokens"])
        means.append({"seeds": [runs[i]["seed"] for i in group], **scores})
        print(means[-1], flush=True)
    report = {
        "method": options.method,
        "start": [[log.name for log in logs] for logs in options.start],
        "runs": runs,
        "means": means,
        "provenance": made,
    }
    which = f" round {len(options.start) + 1} at {runs[0]['lr']:g}" if options.start else ""
    name = re.sub(r"[^a-z0-9]+", "-", options.method.lower() + which)
    file = options.out / f"{name}.json"
    with written_whole(file) as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for log in logs:
        if log.resolve().parent != options.out.resolve():
            shutil.copyfile(log, options.out / log.name)
    print(file)


if __name__ == "__main__":
    main()
