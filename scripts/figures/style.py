"""How every figure looks, and how it is written: PNG and PDF, the same bytes from the same
numbers."""

import matplotlib

matplotlib.use("Agg")
from matplotlib.axes import Axes

# Okabe and Ito's colours, which colour-blind readers can tell apart too
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def bare(panel: Axes) -> Axes:
    """No box, a faint grid."""
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(alpha=0.25)
    return panel


def named(name: str, profile: str) -> str:
    """The stem of a drawing's files: the paper's profile is not in it."""
    return name if profile == "paper" else f"{name}_{profile}"
