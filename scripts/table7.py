"""Table 7: hyperparameters, from the configuration files. `make table7`; loads neither torch nor
Hydra."""

import sys

from experiments.tables.command import run
from experiments.tables.configured import hyperparameters

if __name__ == "__main__":
    title = "Table 7: hyperparameters of RoBERTa-large"
    sys.exit(run("table7", lambda inputs: (title, [hyperparameters(7)]), "scripts/table7.py"))
