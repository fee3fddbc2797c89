"""Findings of the ablations, of the walk and of BSZO's beliefs: one function for each number in
results/findings.md."""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product

from experiments.records.record import Record
from experiments.sweeps.grid import load
from experiments.sweeps.names import METHODS, shown
from experiments.sweeps.selection import Shelf
from experiments.tables import equal_passes
from experiments.tables.accuracy import AVERAGE, Kind, blocks, by_model
from experiments.tables.budgets import BUDGETS
from experiments.tables.cells import last
from experiments.tables.findings.evidence import NOT_RUN, PROFILE, Evidence, mean, numbers, sides
from experiments.tables.layout import rectangle
from experiments.tables.walk import table as walks

LOW, EPS = ("bf16", "bf16-sr", "fp16"), ("1e-4", "1e-3")  # of the walk's study
REAL = "smollm2-135m"  # as the walks name it
LOCAL, SMALL = "local", "stories260k-llama"  # the profile of real rows, and its model
ABLATIONS = {"table5a": "m = k", "table5b": "m = k + 1"}


def gains(evidence: Evidence) -> str:
    """The median of BSZO's gain at the end of its runs with adaptive noise, by model and
    precision."""
    found: dict[tuple[str, str, float], list[float]] = {}
    for point, record in evidence.cells("table1", "table3", "walk"):
        if point["optimizer"] == "bszo" and point["fidelity"] == "corrected":
            setting = point["model"], point["precision"], record["config"]["optimizer"]["eps"]
            found.setdefault(setting, []).append(record["curve"][-1]["gain"])
    return (
        ", ".join(
            f"{model} {precision} eps {eps:g} {statistics.median(values):.2g} ({len(values)} runs)"
            for (model, precision, eps), values in sorted(found.items())
        )
        or NOT_RUN
    )


def sigma_0(evidence: Evidence) -> str:
    """sqrt(n / 1e6), the deviation that BSZO starts from, of the models that were trained."""
    found = [
        math.sqrt(record["model"]["num_parameters"] / 1e6)
        for record in evidence.records
        if record["choices"]["tuning"] == "full" and record["model"].get("num_parameters")
    ]
    return f"{min(found):.2f} to {max(found):.2f}" if found else NOT_RUN


def adaptive_noise(evidence: Evidence) -> str:
    """What adaptive noise gains over fixed noise, under bf16, and in fp32 with m = k + 1."""
    texts, parts = [], ((("table5c", "table5d"), "bf16"), (("table5b", "table12c"), "fp32"))
    for fidelity, (names, what) in product(("official", "corrected"), parts):
        gaps = _noise(evidence, names, fidelity)
        texts += [f"{what}, {fidelity} {mean(gaps)} ({sides(gaps)})"] if gaps else []
    return "; ".join(texts) or NOT_RUN


def _noise(evidence: Evidence, names: Sequence[str], fidelity: str) -> list[float]:
    """Gaps between cells that differ in the noise alone; a cell that does not name it has the
    default, adaptive noise."""
    scores: dict[tuple[str, ...], dict[str, float]] = {}
    for point, record in evidence.cells(*names):
        if point["fidelity"] == fidelity:
            place = (point["task"], point["optimizer.k"], point["optimizer.m"])
            noise = point.get("optimizer.adapt_noise", "always")
            scores.setdefault(place, {})[noise] = 100 * record["test_accuracy"]
    return [both["always"] - both["never"] for both in scores.values() if len(both) == 2]


def directions(evidence: Evidence) -> str:
    """Averages over the tasks by k, with exact restoration: test accuracy at equal steps,
    validation accuracy at equal forward passes."""
    by_k = Kind(lambda point: f"k = {point['optimizer.k']}", lambda point: None)
    kinds = {"equal steps": by_k, "equal forward passes": replace(by_k, scoring=BUDGETS[0].scoring)}
    found = []
    for (name, what), (budget, kind) in product(ABLATIONS.items(), kinds.items()):
        (block,) = blocks(load(name, PROFILE), evidence.records, kind)
        rows = {
            label: row[AVERAGE]
            for label, row in numbers(block, "corrected").items()
            if AVERAGE in row
        }
        found += [(f"{what}, {budget}", rows)] if rows else []
    heads = list(dict.fromkeys(label for _, rows in found for label in rows))
    lines = [
        [what, *(f"{rows[label]:.1f}" if label in rows else "-" for label in heads)]
        for what, rows in found
    ]
    return "\n".join(rectangle(("average over the tasks", *heads), lines)) if lines else NOT_RUN


def drift(evidence: Evidence) -> str:
    """A table of what the walks do to tiny models at lr 0, with one row for each precision and
    eps."""
    del evidence
    return _drifts(lambda model: model != REAL)


def drift_real(evidence: Evidence) -> str:
    """The same of the model of the real study."""
    del evidence
    return _drifts(lambda model: model == REAL)


def _drifts(wanted: Callable[[str], bool]) -> str:
    data = [row for row in walks.points()[0] if row["perplexity"] is not None or row["step"]]
    lines, hows = [], ("three-leg", "two-leg", "exact")
    scored = {row["model"] for row in data if row["perplexity"] is not None}
    for model in sorted(filter(wanted, scored)):
        for (dtype, eps), rows in walks.groups(
            [row for row in data if row["model"] == model], ("dtype", "eps")
        ):
            curves = dict(walks.groups(rows, ("walk",)))
            each = [_moved(curves[how,]) if (how,) in curves else "-" for how in hows]
            steps = sorted({curve[-1]["step"] for curve in curves.values()})
            lines.append(
                [model, dtype, f"{eps:g}", " or ".join(f"{step:,}" for step in steps), *each]
            )
    heads = ("model", "precision", "eps", "steps", *hows)
    return "\n".join(rectangle(heads, lines)) if lines else NOT_RUN


def _moved(curve: Sequence[walks.Row]) -> str:
    """ "11.3 %, 3.79 -> 8.96": the relative drift of the weights, and the perplexity at both
    ends."""
    first, last = (
        f"{curve[i]['perplexity']:.3g}" if curve[i]["perplexity"] else "beyond every float"
        for i in (0, -1)
    )
    return f"{100 * curve[-1]['drift']:.3g} %, {first} -> {last}"


def walk_study(evidence: Evidence) -> str:
    """A table in points, with one row for each precision and eps: test accuracy with either walk
    minus that in fp32, and what exact restoration adds."""
    key, lines = "optimizer.perturbation", []
    for precision, eps in product(LOW, EPS):
        wanted = {"optimizer.eps": eps}
        behind = evidence.paired("precision", precision, "fp32", "walk", wanted=wanted)
        gaps = [_points(gap for point, gap in behind if point[key] == how) for how in walks.WALKS]
        wanted["precision"] = precision
        gains = [
            gap for _, gap in evidence.paired(key, *reversed(walks.WALKS), "walk", wanted=wanted)
        ]
        lines += [[precision, eps, *gaps, f"{_points(gains)}, {sides(gains)}"]] if gains else []
    heads = ("precision", "eps", *(f"{how} minus fp32" for how in walks.WALKS), walks.GAIN)
    return "\n".join(rectangle(heads, lines)) if lines else NOT_RUN


def _points(values: Iterable[float]) -> str:
    """ "-12.3 +- 2.1 (20)": the mean, its standard error, and the number of values."""
    found = list(values)
    error = f" ± {statistics.stdev(found) / math.sqrt(len(found)):.1f}" if len(found) > 1 else ""
    return f"{statistics.fmean(found):+.1f}{error} ({len(found)})" if found else "-"


def walk_losses(evidence: Evidence) -> str:
    """A table of medians, with one row for each precision and eps: each method's last training loss
    minus that in fp32, as published and with exact restoration."""
    found: dict[tuple[str, str], dict[str, dict[str, list[float]]]] = {}
    for precision, eps in product(LOW, EPS):
        for point, gap in evidence.paired(
            "precision", precision, "fp32", "walk", wanted={"optimizer.eps": eps}, score=_loss
        ):
            walked = found.setdefault((precision, eps), {}).setdefault(
                shown(METHODS, point["optimizer"]), {}
            )
            walked.setdefault(point["optimizer.perturbation"], []).append(gap)
    methods = list(dict.fromkeys(method for row in found.values() for method in row))
    lines = [
        [
            *setting,
            *(
                " / ".join(_median(row.get(method, {}).get(how, [])) for how in walks.WALKS)
                for method in methods
            ),
        ]
        for setting, row in found.items()
    ]
    return "\n".join(rectangle(("precision", "eps", *methods), lines)) if lines else NOT_RUN


def _loss(record: Record) -> float:
    loss = last(record, "train_loss")
    return math.nan if loss is None else loss


def _median(values: Sequence[float]) -> str:
    return f"{statistics.median(values):+.3g}" if values else "-"


def local_losses(evidence: Evidence) -> str:
    """Last training losses on real rows with a small pretrained model, with either walk: the range
    over the methods but BSZO, and BSZO's."""
    shelves = dict(by_model("local", evidence.inputs.records(LOCAL)))
    shelf = Shelf(shelves.get(SMALL, ()))
    found: dict[str, tuple[list[float], list[float]]] = {}  # the others' and BSZO's
    for point in load("walk", LOCAL).points:
        record, precision = shelf.find(point), point["precision"]
        if record is not None and record["status"] == "ok" and precision in ("fp32", "bf16"):
            where = "in fp32" if precision == "fp32" else f"in bf16 at {point['optimizer.eps']}"
            found.setdefault(where, ([], []))[point["optimizer"] == "bszo"].append(_loss(record))
    texts = [
        f"{where} {min(others):.3f} to {max(others):.3f} and BSZO's {min(own):.3f} to"
        f" {max(own):.3f}"
        for where, (others, own) in found.items()
        if others and own
    ]
    return "; ".join(texts) or NOT_RUN


def filter_or_mean(evidence: Evidence) -> str:
    """Test accuracy of the posterior mean minus that of the plain mean and of the z-score of the
    same observations, along own directions."""
    name = "BSZO, own directions"
    pairs = {
        "minus the plain mean: k = 2": (name, f"{name}, mean"),
        "k = 8": (f"{name}, k = 8", f"{name}, k = 8, mean"),
        "minus the z-score: k = 2": (name, f"{name}, z-score"),
    }
    return _between(evidence, "each", pairs)


def rank_of_own(evidence: Evidence) -> str:
    """Test accuracy of own directions of rank 4 minus that of rank 1."""
    name = "MeZO, own directions"
    return _between(evidence, "each", {"": (f"{name}, rank = 4", name)})


def orthogonalised(evidence: Evidence) -> str:
    """Test accuracy of ZO-Muon minus that of the same direction at the same length."""
    return _between(evidence, "later", {"": ("ZO-Muon", "ZO-Muon's direction, length alone")})


def _between(evidence: Evidence, sweep: str, pairs: Mapping[str, tuple[str, str]]) -> str:
    """One method of a sweep minus another over the runs that both have."""
    grid, shelf = load(sweep, PROFILE), Shelf(evidence.records)
    rows = {row.name: row for row in equal_passes.rows_of(grid, shelf, grid.settings[0])}
    texts = [
        f"{what} {equal_passes.against(rows[one], rows[other])}".strip()
        for what, (one, other) in pairs.items()
    ]
    return ", ".join(texts) if shelf.used else NOT_RUN


FINDINGS = (
    filter_or_mean,
    rank_of_own,
    orthogonalised,
    gains,
    sigma_0,
    adaptive_noise,
    directions,
    drift,
    drift_real,
    walk_study,
    walk_losses,
    local_losses,
)
