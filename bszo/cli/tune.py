"""`bszo tune`: fine-tuning of a model on rows, and what it leaves.

    DIR/                    model and tokenizer in transformers' format, or an adapter in peft's
    DIR/trajectory.bszo     the base's name by content, and the numbers of every step
    DIR/bszo.json           what was run, with scores on the held-out rows

DIR appears whole or not at all.
"""

import argparse
import json
import math
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from bszo import __version__
from bszo.cli.floors import floors, not_below
from bszo.cli.main import EXIT_CODES
from bszo.cli.parts import MOST_TOKENS, Parts, build, say_begin
from bszo.cli.parts import add_arguments as add_shared
from bszo.cli.stopping import Stopping
from bszo.errors import Collapsed, ConfigError, ModelError, NonFiniteLoss, needs, one_line
from bszo.files import folder_written_whole
from bszo.models import Score, evaluate, has_risen, weights_fingerprint
from bszo.models.saved import write_tuned
from bszo.trajectory import TrajectoryWriter, describe, record

LOG, REPORT = "trajectory.bszo", "bszo.json"
NUM_SCORES = 4  # in the course of a run
SAMPLE = 4096  # elements whose change is looked at
UNCHANGED = 0.99


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_shared(parser)
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="must not exist")
    parser.add_argument("--steps", type=int, default=1000, metavar="N", help="(1000)")
    parser.add_argument(
        "--score-every", type=int, metavar="STEPS", help="default: four times in all"
    )


def run(arguments: argparse.Namespace) -> int:
    """Train, score and write; returns the exit code.

    Raises:
        BszoError: in one line, what cannot be used or written.
        NonFiniteLoss, Collapsed: the run has diverged; nothing is written.
    """
    out: Path = arguments.out
    check_out(out)
    every = max(1, math.ceil(arguments.steps / NUM_SCORES))
    every = every if arguments.score_every is None else arguments.score_every
    fewest = 0 if arguments.start == "fitted" else 1  # a head that is fitted needs no step
    for flag, value, least in (("--steps", arguments.steps, fewest), ("--score-every", every, 1)):
        if value < least:
            raise ConfigError(f"{flag} {value}: {least} or more is valid")
    parts = build(arguments)
    say_begin(parts, arguments)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as beside:
            log = Path(beside) / LOG
            with Stopping().listening() as stopping:
                report = trained(parts, log, arguments.steps, every, stopping)
            report = {"model": parts.model.name, "method": arguments.method, **report}
            with folder_written_whole(out) as folder:
                write_tuned(parts.model, folder)
                shutil.copyfile(log, folder / LOG)
                text = json.dumps(report, indent=1, ensure_ascii=False)
                (folder / REPORT).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written ({one_line(error)})") from error
    before, after = report["scores"][0], report["scores"][-1]
    start, end = (f"{100 * s['accuracy']:.1f} % (loss {s['loss']:.4g})" for s in (before, after))
    print(
        f"{out}: held-out accuracy {start} before, {end} after {after['step']} steps"
        f" ({report['num_forwards']:,} forward passes, {report['train_seconds']:.0f} s)"
    )
    return EXIT_CODES[report["status"]]


def check_out(out: Path) -> None:
    """ConfigError unless the folder can be made: it is not there, and the one above it is."""
    try:
        if out.exists() or out.is_symlink():
            raise ConfigError(f"--out {out}: is there already; a new folder's name is valid")
        if not out.parent.is_dir():
            raise ConfigError(f"--out {out}: {out.parent} is no folder")
    except OSError as error:  # too long a name, or a folder that may not be looked into
        raise ConfigError(f"--out {str(out)[:80]}: cannot be made ({error.strerror})") from error


def trained(
    parts: Parts, log: Path, num_steps: int, score_every: int, stopping: Stopping
) -> dict[str, Any]:
    """Train in place, with every step in the log; what was run and what came of it."""
    with needs("lm"):
        import transformers
        from tqdm import tqdm

    optimizer, model = parts.optimizer, parts.model
    base = weights_fingerprint(model.module)
    header = describe(optimizer, base=base, config=parts.node)
    rate = optimizer.param_groups[0]["lr"]
    sample, first = _sample(optimizer), _score(parts, 0, mute=True)
    scores = [_said(0, first)]
    below = floors(parts)
    losses: list[float] = []
    equal, seconds = 0, 0.0
    with (
        TrajectoryWriter(log, header) as writer,
        tqdm(
            total=num_steps, unit="step", disable=not sys.stderr.isatty(), dynamic_ncols=True
        ) as bar,
    ):
        record(optimizer, writer)
        for step, closure in enumerate(islice(parts.closures(), num_steps), start=1):
            start = time.perf_counter()
            losses.append(float(optimizer.step(closure)))
            seconds += time.perf_counter() - start
            equal += len(set(optimizer.last.losses)) == 1
            bar.update()
            last = step == num_steps or stopping.asked is not None
            if last or step % score_every == 0:
                mean = sum(losses) / len(losses)
                losses.clear()
                score = _score(parts, step, mute=first.mute)
                scores.append({**_said(step, score), "train_loss": mean})
            if last:
                break
        writer.finish()
    steps = optimizer.num_steps
    held = [score["loss"] for score in scores]
    warnings = _doubts(parts, sample, steps, equal, held) if steps else []
    if not warnings and steps and (line := not_below(below, held[-1])):
        warnings.append(line)
    for line in warnings:
        print(f"warning: {line}", file=sys.stderr)
    return {
        "status": "ok" if steps == num_steps else "interrupted",
        "rows": parts.rows.facts,
        "arguments": {**header.settings, "lr": rate},
        "node": parts.node,
        "batch_size": parts.batch_size,
        "max_length": model.limit,
        "packed": bool(model.traits.packed),
        "truncated": sum(row.truncated for row in (*parts.train, *parts.held)),
        "dtype": header.dtype,
        "device": header.device,
        "num_steps": steps,
        "num_forwards": optimizer.num_forwards,
        "train_seconds": round(seconds, 3),
        "scores": scores,
        **below,
        "weights": {"before": base, "after": weights_fingerprint(model.module)},
        "warnings": warnings,
        "versions": {
            "bszo": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }


def _score(parts: Parts, step: int, *, mute: bool) -> Score:
    """Score of the held-out rows. Where `mute`, the model may say the same of all of them.

    Raises:
        ModelError: a score of the model as it was loaded is not finite.
        NonFiniteLoss: one of the model in training.
        Collapsed: the model in training says the same of every row.
    """
    try:
        score = evaluate(parts.model, parts.held, MOST_TOKENS)
    except ModelError as error:
        if step == 0:
            raise
        raise NonFiniteLoss(step, math.nan) from error
    if score.mute and not mute:
        raise Collapsed(step, len(parts.held))
    return score


def _said(step: int, score: Score) -> dict[str, Any]:
    """The score for the report, said on a line."""
    with needs("lm"):
        from tqdm import tqdm

    line = f"held-out accuracy {100 * score.accuracy:5.1f} %, loss {score.loss:.4f}"
    with tqdm.external_write_mode():  # the bar makes room
        print(f"step {step:>6,}: {line}", flush=True)
    return {"step": step, "accuracy": score.accuracy, "loss": score.loss}


@torch.no_grad()
def _sample(optimizer: Any) -> torch.Tensor:
    """Some elements of all that trains."""
    params = optimizer.trainable()
    stride = max(1, sum(p.numel() for p in params) // SAMPLE)
    return torch.cat([p.reshape(-1)[::stride].double().cpu() for p in params])


def _doubts(
    parts: Parts, before: torch.Tensor, steps: int, equal: int, held: Sequence[float]
) -> list[str]:
    """What says that nothing can have been learnt."""
    share = float((_sample(parts.optimizer) == before).double().mean())
    found = []
    if equal == steps:
        found.append(
            "in every step all losses were equal, so that nothing was learnt: eps is too small for"
            " these parameters"
        )
    if share > UNCHANGED:
        found.append(
            f"{100 * share:.1f} % of the weights are what they were: lr is too small for their"
            " precision; a larger --lr is valid, and in bfloat16 --set rounding=stochastic"
        )
    if has_risen(held[0], held[-1]):
        found.append(
            f"the held-out loss has risen from {held[0]:.4g} to {held[-1]:.4g}: a smaller --lr is"
            " the usual cure, and bszo find-lr shows which"
        )
    return found
