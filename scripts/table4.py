"""Table 4: peak memory and time of a step. `make table4`; loads neither torch nor Hydra."""

import sys

from experiments.tables.command import run
from experiments.tables.measured import table4

if __name__ == "__main__":
    title = "Table 4: peak memory and time of a step"
    sys.exit(run("table4", lambda inputs: (title, table4()), "scripts/table4.py"))
