"""The status page: what is present, missing and failed of every table and figure.

    python -m scripts.maintain.status    # make status

It loads neither torch nor Hydra.
"""

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from experiments.records.store import PACKED
from experiments.sweeps.grid import GridError
from experiments.tables.artefacts import ARTEFACTS, Artefact
from experiments.tables.inputs import Inputs
from experiments.tables.state import counted, profiles, summary

COLUMNS = ("artefact", "profile", "runs", "ok", "missing", "failed", "to run now", "state")


def lines(artefact: Artefact, inputs: Inputs) -> list[list[str]]:
    """Return one line for each profile, or one for an artefact that is not made of runs."""
    if artefact.sweeps:
        return [line_of_runs(artefact, profile, inputs) for profile in profiles(artefact)]
    return [[artefact.name, *["-"] * 6, summary(artefact).line]]


def line_of_runs(artefact: Artefact, profile: str, inputs: Inputs) -> list[str]:
    """Count how many runs of a profile are there, failed and missing."""
    counts = counted(artefact, profile, inputs)
    failed = ", ".join(f"{n} {status.replace('_', ' ')}" for status, n in counts.failed.items())
    more = " and then the cells" if counts.statuses["waits"] else ""
    return [
        artefact.name,
        profile,
        str(counts.total),
        str(counts.statuses["ok"]),
        str(counts.missing),
        failed or "0",
        f"{counts.to_run}{more}",
        counts.state,
    ]


def main() -> int:
    parser = argparse.ArgumentParser(
        description="What is present, missing and failed of every table and figure."
    )
    parser.add_argument(
        "--runs", type=Path, default=PACKED, help="folder with a folder of records a profile"
    )
    options = parser.parse_args()
    inputs = Inputs(options.runs)
    table = Table(box=None, pad_edge=False)
    for heading in COLUMNS:
        left = heading in ("artefact", "profile", "failed", "state")
        table.add_column(heading, justify="left" if left else "right", no_wrap=True)
    try:
        for artefact in ARTEFACTS.values():
            for line in lines(artefact, inputs):
                table.add_row(*line)
    except GridError as error:
        print(error, file=sys.stderr)
        return 1
    console = Console()
    console.width = max(console.width, 170)
    console.print(table)
    for note in inputs.footer():
        print(note)
    return 0


if __name__ == "__main__":
    sys.exit(main())
