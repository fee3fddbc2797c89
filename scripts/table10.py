"""Table 10: hyperparameters, from the configuration files. `make table10`; loads neither torch nor
Hydra."""

import sys

from experiments.tables.command import run
from experiments.tables.configured import hyperparameters

if __name__ == "__main__":
    title = "Table 10: hyperparameters of OPT-13B"
    sys.exit(run("table10", lambda inputs: (title, [hyperparameters(10)]), "scripts/table10.py"))
