"""Table 1: RoBERTa-large, test accuracy of five runs. `make table1`; loads neither torch nor
Hydra."""

import sys

from experiments.sweeps.grid import read
from experiments.tables import published
from experiments.tables.command import accuracy_command

if __name__ == "__main__":
    sys.exit(accuracy_command("table1", read("table1")["title"], {"table1": published.table1}))
