"""ZO-SGD-Sign: MeZO with the sign of the estimate in its place."""

import math
from typing import Literal, Unpack

import torch

from bszo.optim.hyperparameter import Hyperparameter, one_of
from bszo.optim.mezo import MeZO
from bszo.optim.options import DifferenceOptions, Params
from bszo.optim.report import StepReport
from bszo.perturb import LossOracle, Terms

Sign = Literal["element", "scalar"]


class ZOSGDSign(MeZO):
    """theta <- theta - lr (sign(g z) + weight_decay theta), element by element, or with sign(g) z
    in the place of sign(g z).

    g is MeZO's. With q directions the element-wise sign is that of their mean, the scalar form the
    mean of sign(g) z. Forward passes a step: 2 q. Extra memory: none.

    Args:
        sign: "element" (as printed) or "scalar" (as run, where the sign was taken of g alone).
        params, lr, eps, num_directions, ...: see MeZO.

    Source: Zhang et al. 2024 (ZO-LLM), arXiv 2402.11592, section 3; Liu et al. 2019 (signSGD by
        differences), ICLR.

    Example:
        >>> import torch
        >>> from bszo import ZOSGDSign
        >>> theta = torch.nn.Parameter(torch.ones(6))
        >>> optimizer = ZOSGDSign([theta], lr=0.01, eps=1e-3)
        >>> _ = optimizer.step(lambda: theta.square().sum())
        >>> moved = (theta.detach() - 1).abs()
        >>> torch.allclose(moved, torch.full((6,), 0.01))  # every element moves by lr
        True
    """

    sign: Hyperparameter[Sign] = Hyperparameter(one_of(Sign))

    def __init__(
        self,
        params: Params,
        *,
        lr: float = 1e-6,
        num_directions: int = 1,
        sign: Sign = "element",
        **options: Unpack[DifferenceOptions],
    ) -> None:
        self.sign = sign
        super().__init__(params, lr=lr, num_directions=num_directions, **options)

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
        for i, _, group in self.with_groups():
            lr, weight_decay = group["lr"], group["weight_decay"]
            oracle.add_(i, oracle.dense(i, gradient).sign_().mul_(-lr), decay=1 - lr * weight_decay)
