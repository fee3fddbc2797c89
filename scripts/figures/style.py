"""How every figure looks, and how it is written: PNG and PDF, the same bytes from the same
numbers."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments import RESULTS

FIGURES = RESULTS / "figures"

# Okabe and Ito's colours, which colour-blind readers can tell apart too
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def bare(panel: Axes) -> Axes:
    """No box, a faint grid."""
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(alpha=0.25)
    return panel


def save(figure: Figure, stem: str, script: str, folder: Path = FIGURES) -> list[Path]:
    """Write <stem>.png and <stem>.pdf, naming the script that made them and no date."""
    folder.mkdir(parents=True, exist_ok=True)
    png, pdf = folder / f"{stem}.png", folder / f"{stem}.pdf"
    figure.savefig(png, dpi=150, metadata={"Software": script})
    figure.savefig(pdf, metadata={"Creator": script, "Producer": None, "CreationDate": None})
    plt.close(figure)
    return [png, pdf]
