"""Table 3: OPT-1.3B, Mistral-7B and OPT-13B, six tasks, six methods. `make table3`; loads neither
torch nor Hydra."""

import sys

from experiments.sweeps.grid import read
from experiments.tables import published
from experiments.tables.command import accuracy_command

if __name__ == "__main__":
    sys.exit(accuracy_command("table3", read("table3")["title"], {"table3": published.table3}))
