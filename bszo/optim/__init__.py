"""Optimizers that need loss values only, one a file; each is a torch.optim.Optimizer with step(closure)."""

from bszo.optim.base import StepReport, ZerothOrderOptimizer
from bszo.optim.bszo import BSZO
from bszo.optim.first_order import FirstOrder
from bszo.optim.hizoo import HiZOO
from bszo.optim.lozo import LOZO
from bszo.optim.mezo import MeZO
from bszo.optim.mezo_adam import MeZOAdam

__all__ = ["BSZO", "LOZO", "FirstOrder", "HiZOO", "MeZO", "MeZOAdam", "StepReport", "ZerothOrderOptimizer"]
