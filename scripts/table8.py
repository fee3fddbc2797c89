"""Table 8: hyperparameters, from the configuration files. `make table8`; loads neither torch nor
Hydra."""

import sys

from experiments.tables.command import run
from experiments.tables.configured import hyperparameters

if __name__ == "__main__":
    title = "Table 8: hyperparameters of OPT-1.3B"
    sys.exit(run("table8", lambda inputs: (title, [hyperparameters(8)]), "scripts/table8.py"))
