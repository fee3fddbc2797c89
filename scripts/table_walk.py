"""Is the low-precision gap the walk? `make table_walk`; loads neither torch nor Hydra.

From results/walk/*.json (`scripts/study/drift.py`) and the records of `sweep=walk`.
"""

import sys

from experiments.tables.command import run
from experiments.tables.walks import sections

if __name__ == "__main__":
    sys.exit(run("table_walk", sections, "scripts/table_walk.py"))
