"""Findings of the study on a real model: one function for each number in results/findings.md."""

import statistics

from experiments.sweeps.selection import Shelf
from experiments.tables.findings.evidence import NOT_RUN, Evidence
from experiments.tables.layout import rectangle
from experiments.tables.real import means, study

EIGHT_OWN = "BSZO, own directions, k = 8, mean"


def real_model(evidence: Evidence) -> str:
    """A table of the methods on the real model whose rate is chosen: after the short budget, the
    validation loss, test accuracy, its difference from the baseline's, and the passes to the
    baseline's lowest loss."""
    return _real_table(evidence, min(study.BUDGETS))


def real_model_long(evidence: Evidence) -> str:
    """The same after the long budget, for which rates are chosen again."""
    return _real_table(evidence, max(study.BUDGETS))


def before_training(evidence: Evidence) -> str:
    """What the model has of either kind of rows before its first step, and its loss."""
    rows, _ = _real_rows(evidence)
    first = next((r for row in rows.values() for r in row.well.values() if study.losses(r)), None)
    if first is None:
        return NOT_RUN
    count, (_, loss) = first["data"]["num_examples"], study.losses(first)[0]
    return (
        f"{study.curve(first)[0][1]:.1f} % of {count['validation']} validation rows at a loss of"
        f" {loss:.3f}, and {100 * first['zero_shot_accuracy']:.1f} % of {count['test']} test rows"
    )


def unlearning(evidence: Evidence) -> str:
    """The baseline's training loss in its long runs at the rate that the short budget chose: where
    the validation loss is lowest, and at the end."""
    rows, shelf = _real_rows(evidence)
    chosen = rows[study.BASELINE].choice.point if study.BASELINE in rows else None
    long = {"protocol.max_forwards": str(max(study.BUDGETS))}
    if chosen is None:
        return NOT_RUN
    texts = []
    for seed in rows[study.BASELINE].runs:
        if (record := shelf.find({**chosen, **long, "seed": seed})) is not None:
            points = record["curve"][1:]
            lowest = min(points, key=lambda point: point["validation_loss"])
            losses = " to ".join(f"{point['train_loss']:.2f}" for point in (lowest, points[-1]))
            texts.append(f"{losses} with seed {seed}")
    return ", ".join(texts) or NOT_RUN


def _real_table(evidence: Evidence, budget: int) -> str:
    rows, _ = _real_rows(evidence, budget)
    base = rows.get(study.BASELINE)
    lines = [
        [
            name,
            study.rate_of(row),
            study.mean_last_loss(row),
            study.test_accuracy(row),
            study.against(row, base) if base else study.NOTHING,
            study.reached(*study.passes_to_best(row, base)) if base else study.NOTHING,
        ]
        for name, row in rows.items()
    ]
    heads = ("method", "lr", "validation loss", "test %", f"minus {study.BASELINE}")
    heads += (f"passes to {study.BASELINE}'s lowest loss",)
    return "\n".join(rectangle(heads, lines)) if lines else NOT_RUN


def means_of_runs(evidence: Evidence) -> str:
    """A table of the mean of the weights of several runs of the real model."""
    del evidence
    section = means.means_section(means.FOLDER)
    if section is None:
        return NOT_RUN
    return "\n".join(rectangle(section.columns, [list(row) for row in section.rows]))


def eight_own(evidence: Evidence) -> str:
    """Test accuracy of eight own directions minus the baseline's on the real model, and the same of
    the last validation loss, over every seed that both have been run with."""
    rows, shelf = _real_rows(evidence)
    if not rows.keys() >= {EIGHT_OWN, study.BASELINE}:
        return NOT_RUN
    own, base = rows[EIGHT_OWN], rows[study.BASELINE]
    points = study.over_seeds(own, base, shelf)
    losses = study.over_seeds(own, base, shelf, lambda r: study.losses(r)[-1][1])
    return f"{points} in points of test accuracy, and {losses} in validation loss"


def eight_own_passes(evidence: Evidence) -> str:
    """With each of these seeds: passes of eight own directions to the baseline's lowest validation
    loss, and the baseline's own; their medians, and with how many seeds they are half or less."""
    rows, shelf = _real_rows(evidence)
    if not rows.keys() >= {EIGHT_OWN, study.BASELINE}:
        return NOT_RUN
    pairs = study.pairs_of(rows[EIGHT_OWN], rows[study.BASELINE], shelf)
    if not pairs:
        return NOT_RUN
    found = [tuple(study.to_best(record, base) for record in (own, base)) for own, base in pairs]
    medians = tuple(map(statistics.median, zip(*found, strict=True)))
    each, middle = (
        ", ".join(f"{own:,.0f} ({base:,.0f})" for own, base in some) for some in (found, [medians])
    )
    half = sum(2 * own <= base for own, base in found)
    return f"{each}, the medians {middle}; half or less with {half} of {len(found)} seeds"


def _real_rows(
    evidence: Evidence, budget: int = min(study.BUDGETS)
) -> tuple[dict[str, study.Row], Shelf]:
    """The methods of the real study that have a run at their chosen rate, by name, and where their
    runs were found."""
    shelf = Shelf(evidence.inputs.records(study.SWEEP))
    rows = study.rows_of(study.grid_of(budget), shelf)
    return {row.name: row for row in rows if row.well}, shelf


FINDINGS = (
    before_training,
    real_model,
    real_model_long,
    unlearning,
    means_of_runs,
    eight_own,
    eight_own_passes,
)
