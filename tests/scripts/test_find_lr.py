"""The comparison of recommended with recorded rates is of the records in git, and its verdicts
follow."""

import json

from experiments.tables.sources import MEASURED
from scripts.study.find_lr import SETTINGS, recorded, table


def test_the_file_holds_the_recorded_rates_and_true_verdicts():
    rows = json.loads((MEASURED / "find_lr.json").read_text(encoding="utf-8"))["rows"]
    assert [(row["model"], row["task"], row["optimizer"]) for row in rows] == [
        setting[1:] for setting in SETTINGS[: len(rows)]
    ]
    for setting, row in zip(SETTINGS, rows, strict=False):
        accuracies = {float(rate): value for rate, value in row["recorded"].items()}
        assert accuracies == recorded(*setting)
        assert accuracies[row["best"]] == max(accuracies.values())
        rates = [probe["lr"] for probe in row["probes"]]
        apart = abs(rates.index(row["found"]) - rates.index(row["best"]))  # half decades
        assert row["within_half_a_decade"] == (apart <= 1)
    assert table(rows).count(" yes") == sum(row["within_half_a_decade"] for row in rows)
