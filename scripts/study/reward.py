"""The example without a derivative, `examples/reward.py`, with every seed, and where it was made.

python -m scripts.study.reward          # about two minutes; results/measured/reward.json
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from bszo.files import written_whole
from examples.reward import DIRECTIONS, SEEDS, STEPS, shown, trained
from experiments.records.provenance import of_script
from experiments.tables.sources import MEASURED


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=MEASURED / "reward.json")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    made = of_script("scripts.study.reward", arguments)
    runs = []
    for seed in SEEDS:
        runs.append(trained(seed))
        print(shown(runs[-1]), flush=True)
    facts = {"steps": STEPS, "directions": DIRECTIONS, "runs": runs, "provenance": made}
    with written_whole(options.out) as temporary:
        temporary.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print(options.out)


if __name__ == "__main__":
    main()
