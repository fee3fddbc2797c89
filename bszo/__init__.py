"""Fine-tuning from loss values alone: BSZO and the zeroth-order optimizers around it."""

from bszo.optim import BSZO, LOZO, FirstOrder, HiZOO, MeZO, MeZOAdam, ZerothOrderOptimizer

__version__ = "0.1.0"
__all__ = ["BSZO", "LOZO", "FirstOrder", "HiZOO", "MeZO", "MeZOAdam", "ZerothOrderOptimizer"]
