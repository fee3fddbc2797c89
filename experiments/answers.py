"""`python -m experiments.answers --runs DIR --weights DIR [key=value ...]`: before and after.

The first test rows as a model reads them, with the right answer, the answer of the model that was
begun with, and those of the models that runs with `checkpoint.weights=DIR` left. The overrides are
those of the runs. Exit codes: 0 ok, 1 a folder, file or key that cannot be used.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bszo.errors import BszoError, ConfigError
from experiments.config.compose import compose
from experiments.records.record import RecordError
from experiments.records.store import find


def answers(config: dict[str, Any], trained: dict[str, Path], num_rows: int) -> Table:
    """One table row a test row: its text, the right answer, the answers before and after.

    Args:
        config: resolved, that of the runs; its model is the one before.
        trained: heading -> folder of weights of a run.
        num_rows: from the beginning of the test split.

    Raises:
        BszoError: what a run of this configuration would be refused for, or weights that cannot be
            read.
    """
    # loads torch and transformers, for a configuration that composes
    from bszo.models import GenerativeModel, load_model
    from experiments.config.schema import parse
    from experiments.training.build import build

    run = parse(config)
    parts = build(run)
    if isinstance(parts.model, GenerativeModel):
        raise ConfigError(
            f"task={parts.model.task.name}: its answers are written, and this table shows which of"
            " a row's options a model picks; a task with options is valid"
        )
    rows, tokens = parts.test[:num_rows], run.protocol.eval_max_tokens
    chosen = {"before": parts.model.predict(rows, max_tokens=tokens)}
    for heading, folder in trained.items():
        after = load_model(
            str(folder), dtype=run.precision.dtype, kind=parts.model.style, name=heading
        )
        chosen[f"after {heading}"] = after.predict(rows, max_tokens=tokens)
    table = Table(box=None, pad_edge=False)
    table.add_column("test row")
    for heading in ("right", *chosen):
        table.add_column(heading, no_wrap=True)
    for number, row in enumerate(rows):
        words = [
            parts.model.tokenizer.decode(list(option.tokens)).strip() for option in row.options
        ]
        text = parts.model.tokenizer.decode(list(row.rows[0]), skip_special_tokens=True)
        given = [
            Text(words[labels[number]], style="" if labels[number] == row.label else "red")
            for labels in chosen.values()
        ]
        table.add_row(Text(text), words[row.label], *given)
    return table


def trained_in(runs: Path, weights: Path) -> dict[str, Path]:
    """Optimizer -> folder of the weights that its run left; a second run's has its signature.

    Raises:
        ConfigError: there are none, or a folder whose run has no record.
    """
    found: dict[str, Path] = {}
    for folder in sorted(part for part in weights.glob("*") if part.is_dir()):
        found_record = find(folder.name, runs)
        if found_record is None:
            raise ConfigError(f"{folder}: no record of the run {folder.name} in {runs}")
        name = str(found_record.record["choices"].get("optimizer", folder.name))
        found[f"{name} {folder.name[:6]}" if name in found else name] = folder
    if not found:
        raise ConfigError(
            f"{weights}: no weights; runs leave them with checkpoint.weights={weights}"
        )
    return dict(sorted(found.items()))


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.answers", description="Answers before and after training."
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as for the runs")
    parser.add_argument("--runs", type=Path, required=True, help="the folder of their records")
    parser.add_argument("--weights", type=Path, required=True, help="the folder of their weights")
    parser.add_argument("--rows", type=int, default=5, metavar="N", help="how many (default: 5)")
    options = parser.parse_intermixed_args(argv)
    width = None if sys.stdout.isatty() else int(os.environ.get("COLUMNS", "120"))
    try:
        trained = trained_in(options.runs, options.weights)
        table = answers(compose(options.overrides), trained, max(1, options.rows))
    except (BszoError, RecordError) as error:
        print(error, file=sys.stderr)
        return 1
    Console(width=width, highlight=False).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
