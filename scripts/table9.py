"""Table 9: hyperparameters, from the configuration files. `make table9`; loads neither torch nor
Hydra."""

import sys

from experiments.tables.command import run
from experiments.tables.configured import hyperparameters

if __name__ == "__main__":
    title = "Table 9: hyperparameters of Mistral-7B"
    sys.exit(run("table9", lambda inputs: (title, [hyperparameters(9)]), "scripts/table9.py"))
