"""The field side by side: task, tuning scheme, method. `make zo-bench`; loads neither torch nor
Hydra."""

import sys

from experiments.tables.command import run
from experiments.tables.zo_bench import sections

if __name__ == "__main__":
    sys.exit(run("zo_bench", sections, "scripts/zo_bench.py"))
