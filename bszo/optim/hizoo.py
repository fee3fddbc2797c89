"""HiZOO: MeZO with a running diagonal estimate of the curvature."""

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor

from bszo.core import central_difference
from bszo.optim.base import ZerothOrderOptimizer
from bszo.optim.hyperparameter import Hyperparameter, number, one_of
from bszo.optim.options import DifferenceOptions, Params, StateDtype, dtype_of_state
from bszo.optim.pieces import pieces
from bszo.optim.report import StepReport
from bszo.perturb import Directions, LossOracle, Scaled, Terms


class HiZOO(ZerothOrderOptimizer):
    """H <- (1 - a) H + a |L_+ + L_- - 2 L_0| H z^2 / (2 eps^2),
    theta <- theta - lr (g z / sqrt(H) + weight_decay theta).

    L_+ and L_- are taken at theta +- eps z / sqrt(H) with H as it was before the step, g = (L_+ -
    L_-) / (2 eps); theta moves along z / sqrt(H) with the H just learnt. H = 1 at the start.
    Forward passes a step: 3. Extra memory: n elements of `state_dtype`.

    Args:
        smoothing: a; a group may have its own. The factor a / (2 eps^2) says how fast H moves: 1e-8
            is 0.5 at eps 1e-4.
        state_dtype: float32, or the parameter's own type (as run; in fp16 H then never leaves 1).
        params, lr, eps, weight_decay, seed, perturbation, module, directions, rounding: see
            ZerothOrderOptimizer.

    Source: Zhao et al. 2024, arXiv 2402.15173, Algorithm 1.

    Example:
        >>> import torch
        >>> from bszo import HiZOO
        >>> theta = torch.nn.Parameter(torch.ones(6))
        >>> optimizer = HiZOO([theta], lr=0.02, eps=1e-2, smoothing=1e-6)
        >>> losses = [optimizer.step(lambda: theta.square().sum()) for _ in range(50)]
        >>> losses[-1] < losses[0], optimizer.state[theta]["curvature"].shape
        (True, torch.Size([6]))
    """

    smoothing = Hyperparameter[float](
        number, lambda a: 0 <= a < 1, "a number in [0, 1) is valid", scope="group"
    )
    state_dtype: Hyperparameter[StateDtype] = Hyperparameter(
        one_of(StateDtype), scope="construction"
    )

    def __init__(
        self,
        params: Params,
        *,
        lr: float = 1e-6,
        smoothing: float = 1e-8,
        state_dtype: StateDtype = "float32",
        **options: Unpack[DifferenceOptions],
    ) -> None:
        self.smoothing, self.state_dtype = smoothing, state_dtype
        super().__init__(params, lr=lr, **options)
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
        for i, p, group in self.with_groups():
            h, smoothing = self.state[p]["curvature"], group["smoothing"]
            for seed in family.own(i, second):
                for h_, z in pieces(h, family.direction(seed, i)):
                    z_ = z.to(h.dtype)
                    grown = (h_ * z_).mul_(z_).mul_(second[seed])
                    grown.mul_(smoothing).div_(2 * self.eps**2)  # in this order fp16 underflows
                    h_.mul_(1 - smoothing).add_(grown)
        self._second.clear()
        super().apply_(oracle, gradient)  # along z / sqrt(H) with the H just learnt

    def _curvature(self) -> Sequence[Tensor]:
        for p in self._params:
            if "curvature" not in self.state[p]:
                self.state[p]["curvature"] = torch.ones_like(
                    p, dtype=dtype_of_state(p, self.state_dtype)
                )
        return [self.state[p]["curvature"] for p in self._params]
