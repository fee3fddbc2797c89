"""A section of the real study's table on what is fitted at once to the parameters that runs have
left: a bias of each label, and a linear probe."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.tables.layout import Section
from experiments.tables.sources import MEASURED, MeasurementError

HEADS = MEASURED / "heads.json"
KINDS = {"plain": "", "biased": " with a bias", "probed": " with a probe"}


def behind_training_section(file: Path) -> Section | None:
    """A line for each method: the scores that its runs end with, those with a bias of each label
    added, and those with a linear probe; None where it has not been measured.

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
            f"{file.name}: not a report of scripts.study.heads ({type(error).__name__}: {error})"
        ) from error
    columns = ("method", "lr", "passes", *(f"validation loss{kind}" for kind in KINDS.values()))
    columns += tuple(f"test %{kind}" for kind in KINDS.values())
    note = (
        "Scores of the parameters at the end of each run: mean (sample deviation; runs), as they"
        " are, with a bias of each label, and with a linear probe of the last hidden state, both"
        " fitted on the training rows. What training has done to the hidden states is the"
        " difference between probes. `python -m scripts.study.heads`."
    )
    title = "A bias and a probe, behind training"
    return Section(title, columns, tuple(lines), notes=(note,))


def _compared(models: Sequence[dict[str, Any]]) -> Sequence[str]:
    """The scores of a method's runs of every kind, mean and deviation."""

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
        for kind in KINDS
    ]
