"""`bszo find-lr`: a range test of the method on the rows. Nothing stays trained or is written."""

import argparse
import itertools
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from bszo import RangeTest, find_lr
from bszo.cli.parts import MOST_TOKENS, build, say_begin
from bszo.cli.parts import add_arguments as add_shared
from bszo.errors import ConfigError, ModelError
from bszo.models import Encoded, GenerativeModel, LanguageModel, evaluate
from bszo.tasks import permutation

NO_GROUND = 2
Row = TypeVar("Row")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_shared(parser)
    test = parser.add_argument_group("range test")
    test.add_argument("--rates", metavar="A,B,...", help="learning rates (default: a search)")
    test.add_argument("--steps", type=int, default=20, metavar="N", help="of a repeat (20)")
    test.add_argument("--repeats", type=int, default=8, metavar="N", help="of a rate (8)")
    test.add_argument("--judges", type=int, default=128, metavar="ROWS", help="held-out rows (128)")


def run(arguments: argparse.Namespace) -> int:
    """Print a table and a recommendation; returns the exit code.

    Raises:
        BszoError: in one line, what cannot be tested.
    """
    rates = None if arguments.rates is None else numbers(arguments.rates)
    for name in ("steps", "repeats", "judges"):
        if getattr(arguments, name) < 1:
            raise ConfigError(f"--{name} {getattr(arguments, name)}: 1 or more is valid")
    parts = build(arguments)
    say_begin(parts, arguments)
    model, size = parts.model, parts.batch_size
    count = arguments.steps * arguments.repeats
    judging = judges(parts.held, arguments.judges, size, parts.seed)
    batches = [model.collate(rows) for rows in judging]
    start = time.perf_counter()
    print(RangeTest.HEADING, flush=True)
    found = find_lr(
        parts.optimizer,
        list(itertools.islice(parts.closures(), count)),
        held=[lambda batch=batch: model.loss(batch) for batch in batches],
        alive=heard(model, [row for rows in judging for row in rows]),
        rates=rates,
        steps=arguments.steps,
        repeats=arguments.repeats,
        on_probe=lambda probe: print(probe, flush=True),
    )
    print(found.reason)
    print(f"{found.num_forwards:,} forward passes, {time.perf_counter() - start:.0f} s")
    return NO_GROUND if found.lr is None else 0


def heard(model: LanguageModel, rows: Sequence[Encoded]) -> Callable[[], bool] | None:
    """() -> whether the model still tells these rows apart; None where it does not to begin with,
    or writes its answers."""

    def speaks() -> bool:
        try:
            return not evaluate(model, rows, MOST_TOKENS).mute
        except ModelError:  # a score is not finite
            return False

    return None if isinstance(model, GenerativeModel) or not speaks() else speaks


def judges(held: Sequence[Row], count: int, size: int, seed: int) -> list[list[Row]]:
    """Batches of `size` of `count` rows, which the seed draws, for files are often sorted by label.
    Each row counts alike: a last batch of fewer is left out, unless it is the only one."""
    count = min(count, len(held))
    chosen = sorted(permutation(len(held), seed)[: count // size * size or count])
    return [[held[i] for i in chosen[at : at + size]] for at in range(0, len(chosen), size)]


def numbers(text: str) -> list[float]:
    """Numbers with commas between; ConfigError where they are none."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--rates {text}: numbers with commas between are valid") from error
