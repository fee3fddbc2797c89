"""Heads that are fitted at once: how much of what a run has learnt is a number for each label, and
what it has done to the hidden states.

    python -m scripts.study.heads --real DIR --log METHOD=FILE METHOD=FILE ..

For SmolLM2-135M on SST-2 as it is, and as each run has left it: loss and accuracy of its own
scores, with a bias of each label added (`bszo.models.label_bias`), and with a linear probe of the
last hidden state (`bszo.models.fit_probe`), both fitted on the training rows. What training has
taught beyond a bias is the difference of the second ones, and what it has done to the hidden states
that of the third. DIR has the rows as data=local reads them. A FILE is the log of a run of
`sweep=real` with `checkpoint=trajectory`, METHOD its name in a table. It writes
results/measured/heads.json.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bszo.files import written_whole
from bszo.models.evaluate import score_of
from bszo.models.fit_probe import fit_features
from bszo.models.logistic import fit_logistic
from experiments.config.compose import compose
from experiments.config.schema import parse
from experiments.records.provenance import of_script
from experiments.tables.real.heads import HEADS, KINDS
from experiments.training.build import Parts, build
from scripts.study.agreement import REAL
from scripts.study.means import RUN, SPLITS, put, trained


def of_heads(parts: Parts, max_tokens: int) -> dict[str, Any]:
    """The model's scores as they are, with the bias and with the probe, and what was fitted."""
    splits = {name: getattr(parts, name) for name in ("train", *SPLITS)}
    read = {n: parts.model.features(rows, max_tokens=max_tokens) for n, rows in splits.items()}
    labels = torch.tensor([row.label for row in parts.train])
    bias = fit_logistic(read["train"][0], labels)[1]
    probe = fit_features(*read["train"], labels)
    found: dict[str, Any] = {"bias": bias.tolist(), "spread": probe.spread}
    found |= {kind: {} for kind in KINDS}
    for split in SPLITS:
        plain, features = read[split]
        logits = {
            "plain": plain,
            "biased": plain + bias,
            "probed": probe.scores(plain, features),
        }
        for kind in KINDS:
            score = score_of(logits[kind], splits[split])
            found[kind] |= {f"{split}_loss": score.loss, f"{split}_accuracy": score.accuracy}
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--real", metavar="DIR", required=True, help="rows, as data=local reads")
    parser.add_argument("--log", nargs="+", required=True, metavar="METHOD=FILE")
    parser.add_argument("--out", type=Path, default=HEADS, metavar="FILE")
    options = parser.parse_args(arguments)
    made = of_script("scripts.study.heads", arguments)
    pairs = [text.rpartition("=")[::2] for text in options.log]
    if bad := [text for text, (method, _) in zip(options.log, pairs, strict=True) if not method]:
        parser.error(f"--log {bad[0]}: METHOD=FILE is valid")
    torch.set_num_threads(1)
    config = compose([*REAL, *RUN, f"data.root={options.real}"])
    tokens = config["protocol"]["eval_max_tokens"]
    parts = build(parse(config))
    found = [{"method": "zero-shot", "num_forwards": 0, **of_heads(parts, tokens)}]
    for method, file in pairs:
        facts, weights = trained(Path(file), config["model"]["path"])
        put(parts.model, [weights])
        found.append({"method": method, **facts, **of_heads(parts, tokens)})
        print(found[-1], flush=True)
    with written_whole(options.out) as temporary:
        report = {"models": found, "provenance": made}
        temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(options.out)


if __name__ == "__main__":
    main()
