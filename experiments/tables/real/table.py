"""Table of the study on a real model: accuracy, rates tried, the filter's gain, and the sections of
its other files."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

from experiments.records.store import SINGLE
from experiments.sweeps.selection import Record, Shelf
from experiments.tables.artefacts import Artefact
from experiments.tables.cells import Cell
from experiments.tables.inputs import Inputs
from experiments.tables.layout import Section, not_shown
from experiments.tables.real.courses import beside_section, course_section, tasks_section
from experiments.tables.real.gradient_signal import FILE, signal_section
from experiments.tables.real.heads import HEADS, behind_training_section
from experiments.tables.real.means import FOLDER, means_section
from experiments.tables.real.study import (
    BASELINE,
    BUDGETS,
    NOTHING,
    SWEEP,
    Row,
    against,
    at_budget,
    cell,
    curve,
    grid_of,
    last_loss,
    last_within,
    mean_last_loss,
    passes_to,
    passes_to_best,
    rate_of,
    reached,
    rows_of,
    test_accuracy,
)
from experiments.tables.real.untrained import (
    fitted_rows,
    in_context_section,
    is_biased,
    is_probe,
    is_untrained,
    label_bias_section,
    name_of,
    probe_section,
    shots_of,
    task_of,
)

LOSS = "validation_loss"
LEVELS = (70, 75, 80, 85)  # per cent of validation


def _median(values: Sequence[float | None], form: str) -> str:
    found = [value for value in values if value is not None]
    return format(statistics.median(found), form) if found else NOTHING


def _untrained(values: Sequence[float]) -> str:
    """The scores of a model as it is, as a cell: one number where every run has the same."""
    same = values[:1] if len(set(values)) == 1 else values
    return Cell(tuple(same), len(same)).text


def _loss_before(found: Sequence[float]) -> str:
    """The validation losses of a model as it is, as a cell of the same kind."""
    if len({f"{loss:.3f}" for loss in found}) <= 1:
        return f"{found[0]:.3f}" if found else NOTHING
    return f"{statistics.fmean(found):.3f} ({statistics.stdev(found):.3f}; {len(found)})"


def _standard_errors(rows: Sequence[Row]) -> str:
    """How far one run's scores may be from what they estimate, for so many rows; of the first run
    that ended well."""
    record = next((record for row in rows for record in row.well.values()), None)
    if record is None:
        return ""
    counts = record["data"]["num_examples"]
    errors = [
        100 * math.sqrt(record[f"{split}_accuracy"] * (1 - record[f"{split}_accuracy"]) / count)
        for split, count in ((split, counts[split]) for split in ("test", "validation"))
    ]
    return (
        f" The standard error of one run's score is {errors[0]:.1f} points on the"
        f" {counts['test']:,} test rows and {errors[1]:.1f} on the {counts['validation']:,} of"
        " validation."
    )


def accuracy_section(budget: int, rows: Sequence[Row], untrained: Sequence[Record] = ()) -> Section:
    """Build the accuracies of the runs of a budget: one line for each method, zero-shot first, then
    other runs in which nothing trains."""
    shown_at = BUDGETS[budget]
    columns = ("method", "lr", "test %", f"minus {BASELINE}", "validation loss")
    columns += tuple(f"validation % at {passes:,}" for passes in shown_at)
    columns += tuple(f"passes to {level} %" for level in LEVELS)
    columns += (f"passes to {BASELINE}'s lowest loss", "training, s", "peak GB")
    lines = []
    # of one precision, for the last digits of two are not the same score
    first = next((row.precision for row in rows if row.well), None)
    alike = [r for row in rows if row.precision == first for r in row.well.values()]
    floors = {"zero-shot": alike} if alike else {}

    def place(record: Record) -> tuple[int, int, bool]:
        probed = fitted_rows(record) if is_probe(record) else 0
        return probed, shots_of(record), is_biased(record)

    for record in sorted(untrained, key=place):
        if any(place(record)):  # zero-shot is what all runs begin with
            floors.setdefault(name_of(record), []).append(record)
    for what, records in floors.items():
        tests = _untrained([100 * r["zero_shot_accuracy"] for r in records])
        starts = f"{_untrained([curve(r)[0][1] for r in records])} at 0"
        loss = _loss_before(
            [loss for r in records if (loss := r["curve"][0].get(LOSS)) is not None]
        )
        floor = (NOTHING, tests, NOTHING, loss, starts)
        empty = [NOTHING] * (len(columns) - 1 - len(floor))
        lines.append((f"{what} ({records[0]['choices']['precision']})", *floor, *empty))
    baseline = next((row for row in rows if row.name == BASELINE), None)
    for row in rows:
        well = list(row.well.values())
        to_level = [[p for r in well if (p := passes_to(r, level)) is not None] for level in LEVELS]
        lines.append(
            (
                f"{row.name} ({row.precision})",
                rate_of(row),
                test_accuracy(row),
                against(row, baseline) if baseline else NOTHING,
                mean_last_loss(row),
                *(cell([at_budget(r, passes) for r in well], row) for passes in shown_at),
                *(reached(found, len(row.ended)) for found in to_level),
                reached(*passes_to_best(row, baseline)) if baseline else NOTHING,
                _median([r["train_seconds"] for r in well], ",.0f"),
                _median([(r["peak_memory_bytes"] or 0) / 1e9 or None for r in well], ".2f"),
            )
        )
    notes = (
        "Mean (sample deviation; runs) over the seeds; passes, seconds and memory are medians,"
        " those of passes over all runs: - (1 of 3) says that most never came there."
        f" {BASELINE}'s lowest loss is that of validation with the same seed; the passes to it lie"
        " on straight lines between the evaluations. Test"
        " accuracy is that of the parameters with the best validation accuracy; the validation loss"
        " is that of a run's end, and validation accuracy that of the last evaluation within the"
        " budget and not before 90 % of it. The peak"
        " is that of the process's resident set, libraries included. Seconds are no costs: runs had"
        " more or less other work beside them; `measured/bench` has costs."
        f"{_standard_errors(rows)}",
        "A pass is a forward pass of 16 rows; a backward pass counts as two, a forward-mode pass as"
        " three. The difference is over the seeds that both methods have, with the p of a paired"
        " t-test; three seeds can show large differences alone. In-context learning trains nothing:"
        " so many training rows stand in front of every prompt, others with each seed. Nor does a"
        " label bias: a number for each label, fitted on the scores of the training rows (a look at"
        " each, 63 passes), is added to its score. A linear probe is as little work: a logistic"
        " regression on the last hidden state.",
        "The weights are Q4_1 dequantised; training is in bf16 with stochastic rounding, and in"
        " fp32 where the line says so.",
    )
    return Section(f"{budget:,} forward passes", columns, tuple(lines), notes=notes)


def rates_section(rows: Mapping[int, Sequence[Row]]) -> Section:
    """Every rate that was tried for each number of passes, with its loss; the chosen one stands out
    by its brackets."""
    lines = []
    for same in zip(*rows.values(), strict=True):
        waiting = len({str(sorted(run.items())) for row in same for run in row.choice.missing})
        lines.append((same[0].name, *map(_rates, same), f"{waiting}" if waiting else NOTHING))
    columns = ("method", *(f"lr: loss after {budget:,}" for budget in rows), "to do")
    note = (
        "Validation loss at the end of a run with seed 0. The least is chosen [in brackets]; where"
        " it is at an end of the rates tried, the next half decade is tried first. The longer runs"
        " begin with the rate that the shorter ones chose and try smaller ones. A rate that was"
        " tried beyond what this asks for is beside the grid."
    )
    return Section("Learning rates tried", columns, tuple(lines), notes=(note,))


def _rates(row: Row) -> str:
    """The rates tried and their losses as a cell."""
    chosen, texts = row.choice.point, []
    for rate, record in row.tried.items():
        text = f"{float(rate):g}: {last_loss(record)}"
        is_chosen = chosen is not None and float(rate) == float(chosen[row.rate_key])
        texts.append(f"[{text}]" if is_chosen else text)
    return ", ".join(texts) or NOTHING


def gain_section(rows: Sequence[Row]) -> Section | None:
    """Build the filter's gain along the runs that tried a rate; None where no method has one."""
    shown_at, lines = BUDGETS[min(BUDGETS)], []
    for row in rows:
        for rate, record in row.tried.items():
            gains = [
                (p["num_forwards"], g) for p in record["curve"] if (g := p.get("gain")) is not None
            ]
            if gains:
                at = [last_within(gains, passes) for passes in shown_at]
                texts = (NOTHING if gain is None else f"{gain:.3f}" for gain in at)
                lines.append((row.name, f"{float(rate):g}", *texts))
    columns = ("method", "lr", *(f"at {passes:,} passes" for passes in shown_at))
    note = (
        "Gain: the slope of a line through 0 of the posterior means over the observations, in the"
        " step before an evaluation. Where it falls, the filter takes more of it for noise."
    )
    return Section("The filter's gain", columns, tuple(lines), notes=(note,)) if lines else None


def sections(artefact: Artefact, inputs: Inputs) -> list[Section]:
    """Build all sections of the study's table."""
    del artefact
    records = inputs.records(SWEEP)
    shelf = Shelf(records)
    rows = {budget: rows_of(grid_of(budget), shelf) for budget in BUDGETS}
    models = {record["choices"]["model"] for record in records}
    tasks = {record["choices"]["task"] for row in rows[min(rows)] for record in row.all_runs}
    single = [
        record
        for record in inputs.records(SINGLE)
        if record["choices"]["model"] in models and record["num_steps"]
    ]
    found = [*records, *single]
    inputs.used |= {record["signature"] for record in found}
    untrained = [record for record in found if is_untrained(record)]
    trained = [record for record in found if not is_untrained(record)]
    elsewhere = [record for record in trained if record["choices"]["task"] not in tasks]
    here = [record for record in trained if record["choices"]["task"] in tasks]
    floors = [record for record in untrained if task_of(record) in tasks]
    by_budget = [accuracy_section(budget, of_budget, floors) for budget, of_budget in rows.items()]
    every = [*rows[min(rows)], *rows[max(rows)]]
    more = tuple(course_section(budget, of_budget) for budget, of_budget in rows.items())
    more += (in_context_section(floors), label_bias_section(untrained))
    more += (probe_section(untrained),)
    more += (behind_training_section(HEADS),)
    more += (beside_section(every, here), tasks_section(every, elsewhere))
    more += (gain_section(rows[min(rows)]),)
    more += (means_section(FOLDER), signal_section(FILE) if FILE.is_file() else None)
    notes = (*by_budget[0].notes, *not_shown(shelf.doubles, shelf.outdated))
    by_budget[0] = replace(by_budget[0], notes=notes)
    return [*by_budget, rates_section(rows), *(section for section in more if section)]
