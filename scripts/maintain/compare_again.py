"""How many runs came back bit for bit: the records of one folder against those of the same
signatures in another.

    python -m scripts.maintain.compare_again EARLIER LATER

An earlier state of results/records/mini: `git worktree add DIR COMMIT`.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.records.comparison import comparison, differences
from experiments.records.record import RecordError
from experiments.records.store import load_all


def compared(earlier: Path, later: Path) -> str:
    """Return one line for the runs that came back bit for bit, and one for the others, by whether
    processor and versions were the same."""
    before = {record["signature"]: record for record in load_all([earlier])}
    same: list[bool] = []
    gaps: dict[bool, list[float]] = {True: [], False: []}  # one machine? -> points of test accuracy
    for here in load_all([later]):
        there: Any = before.get(here["signature"])
        if there is None or there["provenance"]["started"] == here["provenance"]["started"]:
            continue
        same.append(all(line.equal for line in comparison(there, here, bitwise=True)))
        if not same[-1]:
            told = differences(there["provenance"], here["provenance"])
            scores = [side["test_accuracy"] for side in (there, here)]
            if None not in scores:
                gaps[all(text.startswith("commit") for text in told)].append(
                    100 * abs(scores[0] - scores[1])
                )
    lines = [f"{len(same)} runs were run again: {sum(same)} came back bit for bit"]
    lines += [
        f"{len(found)} did not, {'one machine' if one else 'another machine or other versions'}:"
        f" test accuracies {statistics.fmean(found):.1f} points apart on average, {max(found):.1f}"
        " at most"
        for one, found in gaps.items()
        if found
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("earlier", type=Path)
    parser.add_argument("later", type=Path)
    arguments = parser.parse_args(argv)
    try:
        print(compared(arguments.earlier, arguments.later))
    except RecordError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
