"""Runs of the real study in which nothing trains: what tells them apart, and a section for each
kind: in-context learning, a bias of each label, a linear probe."""

from collections.abc import Sequence

from experiments.sweeps.selection import Record
from experiments.tables.layout import Section
from experiments.tables.real.study import curve


def is_untrained(record: Record) -> bool:
    """True of zero-shot and in-context runs, and of a linear probe that is fitted and left."""
    return record["config"].get("tuning", {}).get("method") == "in-context" or is_probe(record)


def shots_of(record: Record) -> int:
    """The training rows that stand in front of every prompt."""
    return record["config"]["tuning"].get("num_shots", 0)


def is_probe(record: Record) -> bool:
    """True where a linear probe was fitted, and no step followed."""
    fitted = record["config"].get("tuning", {}).get("start") == "fitted"
    return fitted and not record["config"]["protocol"]["num_steps"]


def fitted_rows(record: Record) -> int:
    """The training rows of a run."""
    return record["data"]["num_examples"]["train"]


def task_of(record: Record) -> str:
    """The task, and whether it is without its prompt."""
    prompt = record["config"].get("task", {}).get("prompt")
    return record["choices"]["task"] + (f", prompt={prompt}" if prompt else "")


def is_biased(record: Record) -> bool:
    """True where a bias of each label was fitted."""
    return record["config"]["protocol"].get("label_bias") == "fitted"


def name_of(record: Record) -> str:
    """What the run is, as the name of a line."""
    if is_probe(record):
        return f"linear probe, {fitted_rows(record):,} rows"
    shots = shots_of(record)
    name = f"in-context, {shots} rows" if shots else "zero-shot"
    return f"{name}, label bias" if is_biased(record) else name


def in_context_section(records: Sequence[Record]) -> Section | None:
    """Every run of in-context learning; None where there is none."""
    lines = [
        (
            f"{shots_of(r)}",
            f"{r['config']['seed']}",
            f"{curve(r)[0][1]:.1f}",
            f"{r['curve'][0]['validation_loss']:.3f}",
            f"{100 * r['zero_shot_accuracy']:.1f}",
            f"{r['data']['num_truncated']['test']}",
        )
        for r in sorted(records, key=lambda r: (shots_of(r), r["config"]["seed"]))
        if shots_of(r) and not is_biased(r)
    ]
    columns = ("rows in front", "seed", "validation %", "validation loss", "test %")
    columns += ("test prompts cut",)
    note = "The seed picks the rows. A prompt that is cut to fit the model has fewer in front."
    return Section("In-context learning", columns, tuple(lines), notes=(note,)) if lines else None


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


def probe_section(records: Sequence[Record]) -> Section | None:
    """Every run of which a linear probe is all that is fitted; None where there is none."""
    lines = [
        (
            task_of(r),
            f"{fitted_rows(r):,}",
            f"{r['config']['seed']}",
            f"{curve(r)[0][1]:.1f}",
            f"{r['curve'][0]['validation_loss']:.3f}",
            f"{100 * r['zero_shot_accuracy']:.1f}",
            f"{r['model']['probe']['spread']:g}",
            f"{min(loss for _, loss in r['model']['probe']['held_out_losses']):.3f}",
        )
        for r in sorted(records, key=lambda r: (task_of(r), -fitted_rows(r), r["config"]["seed"]))
        if is_probe(r)
    ]
    columns = ("task", "rows fitted", "seed", "validation %", "validation loss", "test %")
    columns += ("spread", "loss held out of the fit")
    note = (
        "Nothing trains. A logistic regression on the model's last hidden state, on top of its own"
        " scores (`bszo.models.fit_probe`): one look at each training row, 63 passes of 16 for"
        " 1,000. The spread of its weights is the one with the least loss on training rows that"
        " are held out of the fit."
    )
    title = "A linear probe, without training"
    return Section(title, columns, tuple(lines), notes=(note,)) if lines else None
