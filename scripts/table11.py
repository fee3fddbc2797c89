"""Table 11: the raw runs behind Table 1, with a paired test. `make table11`; loads neither torch
nor Hydra."""

import sys

from experiments.tables.command import run
from experiments.tables.raw_runs import sections

if __name__ == "__main__":
    sys.exit(run("table11", sections, "scripts/table11.py"))
