"""Table 6: split sizes, from the configuration files. `make table6`; loads neither torch nor
Hydra."""

import sys

from experiments.tables.command import run
from experiments.tables.configured import splits

if __name__ == "__main__":
    title = "Table 6: rows for training and validation"
    sys.exit(run("table6", lambda inputs: (title, [splits()]), "scripts/table6.py"))
