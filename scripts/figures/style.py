"""Style of the figures: their colours, their axes and the names of their files."""

import matplotlib

matplotlib.use("Agg")
from matplotlib.axes import Axes

# Okabe and Ito's colours, which colour-blind readers can tell apart too
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def bare(panel: Axes) -> Axes:
    """Take the box away and draw a faint grid."""
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(alpha=0.25)
    return panel


def named(name: str, profile: str) -> str:
    """Return the stem of a drawing's files; the paper's profile is not in it."""
    return name if profile == "paper" else f"{name}_{profile}"
