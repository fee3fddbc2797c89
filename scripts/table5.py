"""Table 5: ablations of k, m and the adaptive noise. `make table5`; loads neither torch nor
Hydra."""

import sys

from experiments.tables import published
from experiments.tables.command import accuracy_command

if __name__ == "__main__":
    parts = {f"table5{part}": lambda part=part: published.table5(part) for part in "abcd"}
    sys.exit(
        accuracy_command("table5", "Ablations of k, m and the adaptive noise, accuracy (%)", parts)
    )
