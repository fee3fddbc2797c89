"""Label bias: how much of what a run has learnt is a number for each label.

    python -m scripts.study.label_bias --real DIR --log METHOD=FILE METHOD=FILE ..

For SmolLM2-135M on SST-2 as it is, and as each run has left it: loss and accuracy of its own
scores, and with a bias of each label added that is fitted on the training rows
(`bszo.models.label_bias`). What training has taught beyond that is the difference of the second
ones. DIR has the rows as data=local reads them. A FILE is the log of a run of `sweep=real` with
`checkpoint=trajectory`, METHOD its name in a table. It writes results/measured/label_bias.json.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bszo.files import written_whole
from bszo.models import fit_label_bias
from experiments.config.compose import compose
from experiments.config.schema import parse
from experiments.records.provenance import of_script
from experiments.tables.real.label_bias import BIASES
from experiments.training.build import Parts, build
from scripts.study.agreement import REAL
from scripts.study.means import RUN, put, scored, trained


def of_scores(parts: Parts, max_tokens: int) -> dict[str, Any]:
    """The model's scores as they are and with the bias, and that bias."""
    model = parts.model
    bias = fit_label_bias(model, parts.train, max_tokens=max_tokens)
    plain = scored(parts, max_tokens)
    model.label_bias = bias
    try:
        return {"plain": plain, "biased": scored(parts, max_tokens), "bias": bias.tolist()}
    finally:
        model.label_bias = None


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--real", metavar="DIR", required=True, help="rows, as data=local reads")
    parser.add_argument("--log", nargs="+", required=True, metavar="METHOD=FILE")
    parser.add_argument("--out", type=Path, default=BIASES, metavar="FILE")
    options = parser.parse_args(arguments)
    made = of_script("scripts.study.label_bias", arguments)
    pairs = [text.rpartition("=")[::2] for text in options.log]
    if bad := [text for text, (method, _) in zip(options.log, pairs, strict=True) if not method]:
        parser.error(f"--log {bad[0]}: METHOD=FILE is valid")
    torch.set_num_threads(1)
    config = compose([*REAL, *RUN, f"data.root={options.real}"])
    tokens = config["protocol"]["eval_max_tokens"]
    parts = build(parse(config))
    found = [{"method": "zero-shot", "num_forwards": 0, **of_scores(parts, tokens)}]
    for method, file in pairs:
        facts, weights = trained(Path(file), config["model"]["path"])
        put(parts.model, [weights])
        found.append({"method": method, **facts, **of_scores(parts, tokens)})
        print(found[-1], flush=True)
    with written_whole(options.out) as temporary:
        report = {"models": found, "provenance": made}
        temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(options.out)


if __name__ == "__main__":
    main()
