"""The README's numbers of Tables 1 and 3 are the records'."""

import re
from pathlib import Path

from experiments.records.store import PACKED
from experiments.tables.accuracy import AVERAGE
from experiments.tables.evidence import Evidence, numbers
from experiments.tables.inputs import Inputs

ROOT = Path(__file__).resolve().parents[2]


def test_the_averages_are_the_records():
    lines = [
        line.strip("| ").split(" | ")
        for line in (ROOT / "README.md").read_text().splitlines()
        if line.startswith("| ")
    ]
    start = next(i for i, line in enumerate(lines) if line[0] == "corrected, average")
    labels, printed = lines[start][1:], {}
    for line in lines[start + 2 :]:
        if not re.search(r", Table \d+$", line[0]):
            break
        model, precision, table = line[0].split(", ")
        printed[f"{table}, {model}, {precision}"] = dict(zip(labels, line[1:], strict=True))
    found = {
        title: numbers(block, "corrected") for title, block in Evidence(Inputs(PACKED)).blocks()
    }
    assert set(printed) == set(found)
    for title, row in printed.items():
        known = {label: f"{averages[AVERAGE]:.1f}" for label, averages in found[title].items()}
        assert row == {label: known.get(label, "-") for label in labels}
