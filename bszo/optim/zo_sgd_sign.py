"""ZO-SGD-Sign: MeZO with the sign of the estimate in its place."""

import math
from typing import Literal

import torch
from torch import nn

from bszo.optim.base import Params, Perturbation, Rounding, StepReport, require
from bszo.optim.mezo import MeZO
from bszo.perturb import DirectionFunction, LossOracle, Terms


class ZOSGDSign(MeZO):
    """theta <- theta - lr (sign(g z) + weight_decay theta), element by element, or with sign(g) z
    in its place.

    g as in MeZO. With q directions the element-wise sign is that of their mean, the scalar form the
    mean of sign(g) z. Forward passes a step: 2 q. Extra memory: none.

    Args:
        sign: "element" (as printed) or "scalar" (as run, where the sign was taken of g alone).
        params, lr, eps, num_directions, ...: see MeZO.

    Source: Zhang et al. 2024 (ZO-LLM), arXiv 2402.11592, section 3; Liu et al. 2019 (signSGD by
        differences), ICLR.
    """

    def __init__(
        self,
        params: Params,
        *,
        lr: float = 1e-6,
        eps: float = 1e-4,
        num_directions: int = 1,
        sign: Literal["element", "scalar"] = "element",
        weight_decay: float = 0.0,
        seed: int = 0,
        perturbation: Perturbation = "exact",
        module: nn.Module | None = None,
        directions: DirectionFunction | None = None,
        rounding: Rounding = "nearest",
    ) -> None:
        require(sign in ("element", "scalar"), f"sign={sign!r}: element or scalar is valid")
        super().__init__(
            params,
            lr=lr,
            eps=eps,
            num_directions=num_directions,
            weight_decay=weight_decay,
            seed=seed,
            perturbation=perturbation,
            module=module,
            directions=directions,
            rounding=rounding,
        )
        self.sign = sign

    def estimate(self, oracle: LossOracle) -> tuple[Terms, StepReport]:
        gradient, report = super().estimate(oracle)
        if self.sign == "scalar":
            gradient = {
                seed: math.copysign(1 / self.num_directions, g) if g else 0.0
                for seed, g in gradient.items()
            }
        return gradient, report

    @torch.no_grad()
    def apply_(self, oracle: LossOracle, gradient: Terms) -> None:
        if self.sign == "scalar":
            return super().apply_(oracle, gradient)
        oracle.home()
        rates = zip(self.per_parameter("lr"), self.per_parameter("weight_decay"), strict=True)
        for i, (lr, weight_decay) in enumerate(rates):
            oracle.add_(i, oracle.dense(i, gradient).sign_().mul_(-lr), decay=1 - lr * weight_decay)
