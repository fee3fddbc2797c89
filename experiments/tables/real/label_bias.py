"""Sections of the real study's table on a bias of each label: alone, and added to what runs have
learnt."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.sweeps.selection import Record
from experiments.tables.layout import Section
from experiments.tables.real.study import curve
from experiments.tables.real.untrained import is_biased, shots_of
from experiments.tables.sources import MEASURED, MeasurementError

BIASES = MEASURED / "label_bias.json"


def label_bias_section(records: Sequence[Record]) -> Section | None:
    """Every run of which a bias of each label is all that is fitted; None where there is none."""
    biased = [record for record in records if is_biased(record)]
    lines = [
        (
            r["choices"]["task"],
            f"{shots_of(r)}",
            f"{r['config']['seed']}",
            f"{curve(r)[0][1]:.1f}",
            f"{r['curve'][0]['validation_loss']:.3f}",
            f"{100 * r['zero_shot_accuracy']:.1f}",
            ", ".join(f"{value:+.2f}" for value in r["model"]["label_bias"]),
        )
        for r in sorted(
            biased, key=lambda r: (r["choices"]["task"], shots_of(r), r["config"]["seed"])
        )
    ]
    columns = ("task", "rows in front", "seed", "validation %", "validation loss", "test %")
    columns += ("bias of each label",)
    note = (
        "Nothing trains. A number for each label is added to its score, by which the scores of the"
        " training rows have the least cross entropy (`bszo.models.label_bias`): one look at each"
        " row, 63 passes of 16 for 1,000."
    )
    title = "A bias of each label, without training"
    return Section(title, columns, tuple(lines), notes=(note,)) if lines else None


def behind_training_section(file: Path) -> Section | None:
    """A line for each method: the scores that its runs end with, and those with a bias of each
    label added; None where it has not been measured.

    Raises:
        MeasurementError: the file is not what the study writes.
    """
    if not file.is_file():
        return None
    try:
        models: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["models"]
        methods = dict.fromkeys((m["method"], m["num_forwards"], m.get("lr")) for m in models)
        lines = []
        for method in methods:
            own = [m for m in models if (m["method"], m["num_forwards"], m.get("lr")) == method]
            lr = "-" if method[2] is None else f"{method[2]:g}"
            lines.append((method[0], lr, f"{method[1]:,}", *_compared(own)))
    except (ValueError, LookupError, TypeError) as error:
        raise MeasurementError(
            f"{file.name}: not a report of scripts.study.label_bias"
            f" ({type(error).__name__}: {error})"
        ) from error
    columns = ("method", "lr", "passes", "validation loss", "with a bias", "test %")
    columns += ("test % with a bias",)
    note = (
        "Scores of the parameters at the end of each run: mean (sample deviation; runs), as they"
        " are, and with a bias of each label that is fitted on the training rows."
        " `python -m scripts.study.label_bias`."
    )
    title = "A bias of each label, behind training"
    return Section(title, columns, tuple(lines), notes=(note,))


def _compared(models: Sequence[dict[str, Any]]) -> Sequence[str]:
    """The scores of a method's runs without and with a bias, mean and deviation."""

    def shown(kind: str, key: str, scale: int, form: str) -> str:
        values = [scale * model[kind][key] for model in models]
        if len(values) == 1:
            return f"{values[0]:{form}}"
        return (
            f"{statistics.fmean(values):{form}} ({statistics.stdev(values):{form}}; {len(values)})"
        )

    return [
        shown(kind, key, scale, form)
        for key, scale, form in (("validation_loss", 1, ".3f"), ("test_accuracy", 100, ".1f"))
        for kind in ("plain", "biased")
    ]
