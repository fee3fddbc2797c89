"""A section of the real study's table on linear probes that are fitted at once."""

from collections.abc import Sequence

from experiments.sweeps.selection import Record
from experiments.tables.layout import Section
from experiments.tables.real.study import curve
from experiments.tables.real.untrained import is_probe


def probe_section(records: Sequence[Record]) -> Section | None:
    """Every run of which a linear probe is all that is fitted; None where there is none."""
    lines = [
        (
            r["choices"]["task"],
            f"{r['data']['num_examples']['train']:,}",
            f"{r['config']['seed']}",
            f"{curve(r)[0][1]:.1f}",
            f"{r['curve'][0]['validation_loss']:.3f}",
            f"{100 * r['zero_shot_accuracy']:.1f}",
            f"{r['model']['probe']['spread']:g}",
            f"{min(loss for _, loss in r['model']['probe']['held_out_losses']):.3f}",
        )
        for r in sorted(records, key=lambda r: (r["choices"]["task"], r["config"]["seed"]))
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
