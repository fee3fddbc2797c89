"""What is present, missing and failed of every artefact. `make status`; loads neither torch nor Hydra."""

import argparse
import sys
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.grid import GridError, load, names, read
from experiments.selection import Shelf, missing_runs
from experiments.tables.command import Inputs
from experiments.tables.sources import RUNS


def line(artefact: str, profile: str, inputs: Inputs) -> list[str]:
    """The counts of one artefact in one profile."""
    grid, shelf = load(artefact, profile), Shelf(inputs.records(profile))
    choosing, cells = missing_runs(grid, shelf)
    statuses: Counter[str] = Counter()
    for point in grid.points:
        choice = shelf.choose(grid, point)
        record = shelf.find(choice.point) if choice.point else None
        statuses[
            "waits" if choice.missing else "failed" if choice.failed else record["status"] if record else "missing"
        ] += 1
    failed = {status: n for status, n in statuses.items() if status not in ("ok", "waits", "missing")}
    todo = len(choosing) + len(cells)
    state = "complete" if statuses["ok"] == len(grid.points) else "not run" if not shelf.used else "partial"
    return [artefact, profile, str(len(grid.points)), str(statuses["ok"]), str(statuses["missing"] + statuses["waits"]),
            ", ".join(f"{n} {status}" for status, n in failed.items()) or "0",
            f"{todo}{' and then the cells' if statuses['waits'] else ''}", state]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description="What is present, missing and failed of every table and figure.")
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder with a folder of records a profile")
    options = parser.parse_args()
    inputs = Inputs(options.runs)
    table = Table(box=None, pad_edge=False)
    for heading in ("artefact", "profile", "runs", "ok", "missing", "failed", "to run", "state"):
        table.add_column(
            heading, justify="left" if heading in ("artefact", "profile", "failed", "state") else "right", no_wrap=True
        )
    try:
        for artefact in names():
            for profile in read(artefact)["profiles"]:
                table.add_row(*line(artefact, profile, inputs))
    except GridError as error:
        print(error, file=sys.stderr)
        return 1
    console = Console()
    console.width = max(console.width, 110)
    console.print(table)
    for profile in ("paper", "mini", "local"):
        for problem in inputs.problems(profile):
            print(f"left out of {profile}: {problem}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
