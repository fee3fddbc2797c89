"""Optimizers that need loss values only, one a file; each is a torch.optim.Optimizer with
step(closure)."""

from bszo.optim.agzo import AGZO
from bszo.optim.base import ZerothOrderOptimizer
from bszo.optim.bszo import BSZO
from bszo.optim.bszo_each import EachBSZO
from bszo.optim.conmezo import ConMeZO
from bszo.optim.es import ES
from bszo.optim.first_order import FirstOrder
from bszo.optim.forward_grad import ForwardGrad
from bszo.optim.fzoo import FZOO
from bszo.optim.hizoo import HiZOO
from bszo.optim.hybrid import Hybrid
from bszo.optim.loren import LOREN
from bszo.optim.lozo import LOZO
from bszo.optim.lozo_m import LOZOM
from bszo.optim.mezo import MeZO
from bszo.optim.mezo_adam import MeZOAdam
from bszo.optim.mezo_adam_history import MeZOAdamHistory
from bszo.optim.mezo_bcd import MeZOBCD
from bszo.optim.mezo_each import EachMeZO
from bszo.optim.range_test import find_lr
from bszo.optim.recommendation import RangeTest
from bszo.optim.report import StepReport
from bszo.optim.subzero import SubZero
from bszo.optim.subzero_plus import SubZeroPlus
from bszo.optim.zo_ldsd import ZOLDSD
from bszo.optim.zo_muon import ZOMuon
from bszo.optim.zo_sgd_cons import ZOSGDConservative
from bszo.optim.zo_sgd_mmt import ZOSGDMomentum
from bszo.optim.zo_sgd_sign import ZOSGDSign

__all__ = [
    "AGZO",
    "BSZO",
    "ES",
    "FZOO",
    "LOREN",
    "LOZO",
    "LOZOM",
    "ZOLDSD",
    "ConMeZO",
    "EachBSZO",
    "EachMeZO",
    "FirstOrder",
    "ForwardGrad",
    "HiZOO",
    "Hybrid",
    "MeZO",
    "MeZOAdam",
    "MeZOAdamHistory",
    "MeZOBCD",
    "RangeTest",
    "StepReport",
    "SubZero",
    "SubZeroPlus",
    "ZOMuon",
    "ZOSGDConservative",
    "ZOSGDMomentum",
    "ZOSGDSign",
    "ZerothOrderOptimizer",
    "find_lr",
]
