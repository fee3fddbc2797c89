"""HiZOO: MeZO with a running diagonal estimate of the curvature."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from bszo.core import central_difference
from bszo.optim.base import (
    Params,
    Perturbation,
    Rounding,
    StepReport,
    ZerothOrderOptimizer,
    require,
)
from bszo.perturb import DirectionFunction, Directions, LossOracle, Scaled, Terms


class HiZOO(ZerothOrderOptimizer):
    """H <- (1 - a) H + a |L_+ + L_- - 2 L_0| H z^2 / (2 eps^2),
    theta <- theta - lr (g z / sqrt(H) + weight_decay theta).

    L_+ and L_- are taken at theta +- eps z / sqrt(H) with H before the update, g = (L_+ - L_-) / (2
    eps), H = 1 at the start. Forward passes a step: 3. Extra memory: n elements of `state_dtype`.

    Args:
        smoothing: a. The factor a / (2 eps^2) says how fast H moves: 1e-8 is 0.5 at eps 1e-4.
        state_dtype: float32, or the parameter's own type (as run; in fp16 H then never leaves 1).
        params, lr, eps, weight_decay, seed, perturbation, module, directions, rounding: see
            ZerothOrderOptimizer.

    Source: Zhao et al. 2024, arXiv 2402.15173, Algorithm 1.
    """

    def __init__(
        self,
        params: Params,
        *,
        lr: float = 1e-6,
        eps: float = 1e-4,
        smoothing: float = 1e-8,
        state_dtype: Literal["float32", "parameter"] = "float32",
        weight_decay: float = 0.0,
        seed: int = 0,
        perturbation: Perturbation = "exact",
        module: nn.Module | None = None,
        directions: DirectionFunction | None = None,
        rounding: Rounding = "nearest",
    ) -> None:
        require(0 <= smoothing < 1, f"smoothing={smoothing}: a number in [0, 1) is valid")
        require(
            state_dtype in ("float32", "parameter"),
            f"state_dtype={state_dtype!r}: float32 or parameter is valid",
        )
        super().__init__(
            params,
            lr=lr,
            eps=eps,
            weight_decay=weight_decay,
            seed=seed,
            perturbation=perturbation,
            module=module,
            directions=directions,
            rounding=rounding,
        )
        self.smoothing, self.state_dtype = smoothing, state_dtype
        self._second: dict[int, float] = {}  # {seed: |L_+ + L_- - 2 L_0|} of this step

    def directions(self) -> Directions:
        """z / sqrt(H), with H as it stands when a direction is asked for."""
        return Scaled(self._family, self._curvature())

    def estimate(self, oracle: LossOracle) -> tuple[Terms, StepReport]:
        (seed,) = self.direction_seeds(1)
        f_plus, f_minus, f_0 = oracle.measure([{seed: self.eps}, {seed: -self.eps}, {}])
        self._second[seed] = abs(f_plus + f_minus - 2 * f_0)
        y = central_difference(f_plus, f_minus, self.eps)
        return {seed: y}, StepReport(f_0, (y,))

    @torch.no_grad()
    def apply_(self, oracle: LossOracle, gradient: Terms) -> None:
        oracle.home()
        family = self.restricted(self._family)
        second = {seed: self._second[seed] for seed in gradient}
        for i, h in enumerate(self._curvature()):
            for seed in family.own(i, second):
                z = family.direction(seed, i).to(h.dtype)
                grown = (h * z).mul_(z).mul_(second[seed])
                grown.mul_(self.smoothing).div_(2 * self.eps**2)  # in this order fp16 underflows
                h.mul_(1 - self.smoothing).add_(grown)
        self._second.clear()
        super().apply_(oracle, gradient)  # along z / sqrt(H) with the H just learnt

    def _curvature(self) -> Sequence[Tensor]:
        for p in self._params:
            if "curvature" not in self.state[p]:
                dtype = torch.float32 if self.state_dtype == "float32" else p.dtype
                self.state[p]["curvature"] = torch.ones_like(p, dtype=dtype)
        return [self.state[p]["curvature"] for p in self._params]
