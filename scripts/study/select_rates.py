"""Selection of learning rates by validation, never by test rows.

They are written to conf/tuned with the records that they came from.

    python -m scripts.study.select_rates                # of table1 and table3 in the profile mini
    python -m scripts.study.select_rates table3 --profile paper

It loads neither torch nor Hydra.
"""

import argparse
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from bszo.files import written_whole
from experiments import CONF
from experiments.records.store import PACKED
from experiments.sweeps.grid import GridError, load, rate_key, trained
from experiments.sweeps.selection import Shelf
from experiments.tables.inputs import Inputs

DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
DEFAULT = "corrected"
Chosen = dict[str, dict[str, str]]  # dtype -> task -> rate


def collect(
    artefacts: Sequence[str], profile: str, inputs: Inputs
) -> dict[tuple[str, str], tuple[Chosen, list[str]]]:
    """Return the chosen rates of each (optimizer, model), and a line of evidence for each rate."""
    found: defaultdict[tuple[str, str], tuple[Chosen, list[str]]] = defaultdict(lambda: ({}, []))
    for artefact in artefacts:
        grid, shelf = load(artefact, profile), Shelf(inputs.records(profile))
        for point in grid.points:
            choice = shelf.choose(grid, point)
            if choice.point is None or any(
                point[key] != value for key, value in (grid.select or {}).items()
            ):
                continue
            if trained(point) != point["model"] or any(
                key.startswith(("directions.", "optimizer.")) for key in point
            ):
                continue  # conf/tuned is for the method as it is, on all of the model
            if point.get("fidelity", DEFAULT) != DEFAULT:
                # each has a choice of its own in the profile paper, and conf/tuned one place for
                # both
                continue
            rates, evidence = found[point["optimizer"], point["model"]]
            key, dtype = rate_key(point["optimizer"]), DTYPES[point["precision"]]
            rates.setdefault(dtype, {})[point["task"]] = choice.point[key]
            seen = [(run[key], shelf.find(run)) for run in grid.candidates(point)]
            tried = ", ".join(
                f"{rate} {_percent(choice.validation[rate])} ({record['signature']})"
                for rate, record in seen
                if record
            )
            evidence.append(f"{dtype} {point['task']}: {tried}")
    return found


def _percent(value: float | None) -> str:
    return "failed" if value is None else f"{100 * value:.1f} %"


def text(optimizer: str, profile: str, rates: Chosen, evidence: Sequence[str]) -> str:
    """Return the file's text: it has the rate of the run's precision and task, or, without such a
    choice, the median of the first precision's."""
    usual = statistics.median_low([float(rate) for rate in next(iter(rates.values())).values()])
    key = rate_key(optimizer).removeprefix("optimizer.")
    lines = [
        "# @package _global_",
        (
            f"# Written by scripts/study/select_rates.py from results/records/{profile}: the best"
            " validation of seed 0,"
        ),
        (
            "# of equals the smaller rate. Rate, validation accuracy and record of each that was"
            " tried:"
        ),
        *(f"# {line}" for line in evidence),
        "rates:",
    ]
    for dtype, tasks in rates.items():
        lines += [f"  {dtype}:", *(f"    {task}: {_number(rate)}" for task, rate in tasks.items())]
    value = f"${{oc.select:rates.${{precision.dtype}}.${{task.name}},{usual:g}}}"
    lines.append("optimizer:")
    *above, last = key.split(".")
    lines += [f"{'  ' * (i + 1)}{part}:" for i, part in enumerate(above)]
    lines.append(f"{'  ' * (len(above) + 1)}{last}: {value}")
    return "\n".join(lines) + "\n"


def _number(rate: str) -> str:
    """Write 1e-04 as 1.0e-04, which YAML reads as a number."""
    mantissa, e, exponent = rate.partition("e")
    return rate if not e or "." in mantissa else f"{mantissa}.0e{exponent}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write the chosen learning rates to conf/tuned.")
    parser.add_argument(
        "artefacts", nargs="*", default=["table1", "table3"], help="whose choices (table1 table3)"
    )
    parser.add_argument("--profile", default="mini", help="paper, mini or local")
    parser.add_argument(
        "--runs", type=Path, default=PACKED, help="folder with a folder of records a profile"
    )
    parser.add_argument("--out", type=Path, default=CONF / "tuned")
    options = parser.parse_args(arguments)
    try:
        found = collect(options.artefacts, options.profile, Inputs(options.runs))
    except GridError as error:
        print(error, file=sys.stderr)
        return 1
    for (optimizer, model), (rates, evidence) in found.items():
        file = options.out / optimizer / f"{model}.yaml"
        with written_whole(file) as temporary:
            temporary.write_text(
                text(optimizer, options.profile, rates, evidence), encoding="utf-8"
            )
        print(f"{file.relative_to(options.out)}: {', '.join(f'{d} {r}' for d, r in rates.items())}")
    if not found:
        print(
            f"nothing chosen yet in {', '.join(options.artefacts)} of the profile"
            f" {options.profile}",
            file=sys.stderr,
        )
    return 0 if found else 1


if __name__ == "__main__":
    sys.exit(main())
