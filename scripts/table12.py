"""Table 12: ablations of k and m in fp32. `make table12`; loads neither torch nor Hydra."""

import sys

from experiments.tables import published
from experiments.tables.command import accuracy_command

PARTS = {
    "table5a": lambda: published.table12("a"),
    "table5b": lambda: published.table12("b"),
    "table12c": lambda: published.table12("c"),
}

if __name__ == "__main__":
    sys.exit(
        accuracy_command("table12", "Ablations of k, m and the noise in fp32, accuracy (%)", PARTS)
    )
