"""How many runs came back, by hand: the same, another machine's, and one that was not run again."""

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

from experiments.records import store
from experiments.records.signing import signature
from tests.experiments.conftest import some_record  # noqa: F401 - a fixture

ROOT = Path(__file__).resolve().parents[2]


def test_by_hand(tmp_path: Path, some_record: dict[str, Any]) -> None:  # noqa: F811
    provenance = {
        "versions": {"torch": "2"},
        "hardware": {"cpu": "A"},
        "byte_order": "little",
        "commit": "a",
    }
    for number, (cpu, accuracy, started) in enumerate(
        [("A", 0.7, "2"), ("B", 0.6, "2"), ("A", 0.7, "1")]
    ):
        config = {**some_record["config"], "seed": number}
        there = {
            **some_record,
            "config": config,
            "signature": signature(config),
            "provenance": {**provenance, "started": "1"},
        }
        here = copy.deepcopy(there)
        here["test_accuracy"] = accuracy
        here["provenance"] |= {"hardware": {"cpu": cpu}, "commit": "b", "started": started}
        store.write(there, tmp_path / "earlier")
        store.write(here, tmp_path / "later")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "scripts.maintain.compare_again",
            str(tmp_path / "earlier"),
            str(tmp_path / "later"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [
        "2 runs were run again: 1 came back bit for bit",
        (
            "1 did not, another machine or other versions: test accuracies 10.0 points apart on"
            " average, 10.0 at most"
        ),
    ]
