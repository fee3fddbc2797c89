"""Fine-tuning from loss values alone: BSZO and the zeroth-order optimizers around it."""

from bszo.optim import (
    BSZO,
    FZOO,
    LOZO,
    LOZOM,
    FirstOrder,
    ForwardGrad,
    HiZOO,
    Hybrid,
    MeZO,
    MeZOAdam,
    MeZOAdamHistory,
    MeZOBCD,
    SubZero,
    ZerothOrderOptimizer,
    ZOSGDConservative,
    ZOSGDMomentum,
    ZOSGDSign,
)

__version__ = "0.1.0"
__all__ = [
    "BSZO",
    "FZOO",
    "LOZO",
    "LOZOM",
    "FirstOrder",
    "ForwardGrad",
    "HiZOO",
    "Hybrid",
    "MeZO",
    "MeZOAdam",
    "MeZOAdamHistory",
    "MeZOBCD",
    "SubZero",
    "ZOSGDConservative",
    "ZOSGDMomentum",
    "ZOSGDSign",
    "ZerothOrderOptimizer",
]
