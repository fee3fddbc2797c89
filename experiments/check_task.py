"""Check of a task, before it is run.

    python -m experiments.check_task [--config-dir DIR] [--row N] task=mine [key=value ...]

It reads and tokenises every row of every split, as a run would. Then it shows one training example:
its exact tokens, where each option begins, and what the model scores. Exit codes: 0 ok, 1 a file,
row or key that cannot be used.
"""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bszo.errors import BszoError, ConfigError, printable
from experiments.config.compose import compose


def show(config: dict[str, Any], row: int, console: Console) -> None:
    """Build all parts of the run but train nothing; print one training example.

    Raises:
        BszoError: what a run of this configuration would be refused for.
    """
    # loads torch and transformers, for a configuration that composes
    from experiments.config.schema import parse
    from experiments.training.build import build

    run = parse(config)
    parts = build(run)
    if not 0 <= row < len(parts.train):
        raise ConfigError(f"--row {row}: must be 0 to {len(parts.train) - 1}, the training rows")
    example, model = parts.train[row], parts.model
    console.print(_overview(run.task["name"], parts))
    for number, ids in enumerate(example.rows):
        console.print(_tokens(model.tokenizer, number, ids, example))
    console.print(_options(model, example))
    if hasattr(example, "answers"):
        console.print(_written(model, example))


def _overview(name: str, parts: Any) -> Table:
    """Each split's rows, their lengths and their labels."""
    model = parts.model
    title = f"task {name}, {model.name} ({model.style}, at most {model.limit} tokens)"
    table = Table(title=Text(printable(title)))
    for heading in ("split", "rows", "longest (tokens)", "truncated", "rows by label"):
        table.add_column(heading)
    for split in ("train", "validation", "test"):
        examples = getattr(parts, split)
        labels = Counter(example.label for example in examples)
        shares = ", ".join(f"{label}: {count}" for label, count in sorted(labels.items()))
        cut = sum(example.truncated for example in examples)
        table.add_row(
            split, str(len(examples)), str(max(e.length for e in examples)), str(cut), shares
        )
    return table


def _tokens(tokenizer: Any, number: int, ids: Sequence[int], example: Any) -> Text:
    """A token row; the positions from which options are read stand in brackets."""
    read_at = {
        column for option in example.options if option.row == number for column in option.columns
    }
    text = Text(
        f"\nexample {example.id}, row {number}: {len(ids)} tokens, options are read at the"
        " [bracketed] ones\n"
    )
    for position, piece in enumerate(tokenizer.convert_ids_to_tokens(list(ids))):
        mark = f"[{position}]" if position in read_at else str(position)
        text.append(f"{mark}:", style="dim").append(
            printable(piece), style="reverse" if position in read_at else ""
        ).append("  ")
    return text.append("\n")


def _options(model: Any, example: Any) -> Table:
    """Each option's tokens, where they are read, and what the model scores."""
    scores = model.score_all([example], max_tokens=1)[0].tolist()
    table = Table(title="score = mean log-probability of the option's tokens")
    for heading in ("label", "option", "tokens", "read at", "score", ""):
        table.add_column(heading)
    for label, (option, score) in enumerate(zip(example.options, scores, strict=False)):
        notes = ["right"] * (label == example.label) + ["chosen"] * (score == max(scores))
        pieces = model.tokenizer.convert_ids_to_tokens(list(option.tokens))
        spots = f"row {option.row}: {', '.join(map(str, option.columns))}"
        text = model.tokenizer.decode(list(option.tokens))
        table.add_row(
            str(label),
            Text(repr(text)),
            Text(printable(" ".join(pieces))),
            spots,
            f"{score:.4f}",
            ", ".join(notes),
        )
    return table


def _written(model: Any, example: Any) -> Text:
    """What the model writes, beside the gold answers."""
    (text,) = model.answer([example], max_tokens=1)
    f1 = model.mean_f1([example], max_tokens=1)
    return Text(
        f"written: {text!r}\ngold:    {' | '.join(map(repr, example.answers))}\ntoken F1 {f1:.3f}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    description = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(
        prog="python -m experiments.check_task", description=description
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="as for experiments.run; task=NAME first"
    )
    parser.add_argument(
        "--config-dir",
        metavar="DIR",
        action="append",
        default=[],
        help="a folder of your own with task/<name>.yaml",
    )
    parser.add_argument(
        "--row", type=int, default=0, metavar="N", help="which training row to show (default: 0)"
    )
    arguments = parser.parse_intermixed_args(argv)
    width = None if sys.stdout.isatty() else int(os.environ.get("COLUMNS", "120"))
    try:
        show(
            compose(arguments.overrides, folders=arguments.config_dir),
            arguments.row,
            Console(width=width, highlight=False),
        )
    except BszoError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
