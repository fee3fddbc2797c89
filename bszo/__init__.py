"""Optimizers that fine-tune a network from loss values alone: BSZO and the zeroth-order methods
around it.

They are loaded, and torch with them, when the first of them is asked for: `bszo.errors` and
`bszo.files` need neither.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bszo.optim import *  # noqa: F403 (the names are said once, in bszo.optim.__all__)

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "__all__" or not name.startswith("_"):
        optim = import_module("bszo.optim")
        if name in ("optim", "__all__"):
            return optim if name == "optim" else optim.__all__
        if name in optim.__all__:
            return getattr(optim, name)
        if name in globals():  # a package that the optimizers have loaded, such as bszo.core
            return globals()[name]
    raise AttributeError(f"module 'bszo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *import_module("bszo.optim").__all__})
