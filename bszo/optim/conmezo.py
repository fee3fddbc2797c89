"""ConMeZO: MeZO along directions that lie in a cone about the mean of its own estimates."""

import math
from collections.abc import Sequence
from typing import Literal, Unpack

import torch
from torch import Tensor

from bszo.optim.hyperparameter import Hyperparameter, number, one_of
from bszo.optim.mezo import MeZO
from bszo.optim.options import DifferenceOptions, Params, StateDtype, dtype_of_state
from bszo.perturb import Cone, Directions, LossOracle, Terms, mix64, noise

Start = Literal["zero", "noise"]
Warmup = Literal["none", "as-run"]


class ConMeZO(MeZO):
    """theta <- theta - lr (g z' + weight_decay theta),  m <- b m + (1 - b) g z',
    z' = cos(t) sqrt(n) m / |m| + sin(t) z,  g = (L(theta + eps z') - L(theta - eps z')) / (2 eps).

    t is the angle between z' and m, n the number of trained elements. Where m is zero, z' is z. The
    length of a Gaussian z is sqrt(n) up to a share of 1 / sqrt(2 n). With q directions g z' is the
    mean of q. Forward passes a step: 2 q. Extra memory: n elements of `state_dtype`.

    Args:
        angle: t, in radians, from 0 to pi / 2; pi / 2 is MeZO.
        momentum: b; a group may have its own.
        start: m before the first step is "zero", or a Gaussian "noise" (as run), about which the
            first cones lie.
        warmup: "none", or "as-run": b is 0.1 for 200 steps, and on its way to b until step 2000.
        state_dtype: of m: float32, or the parameter's own type (as run).
        params, lr, eps, num_directions, ...: see MeZO.

    Source: Behric et al. 2025, arXiv 2511.02757, Algorithm 1. Its code takes |m| from a recursion
        in which m and z are at right angles; here it is measured.

    Example:
        >>> import torch
        >>> from bszo import ConMeZO
        >>> theta = torch.nn.Parameter(torch.ones(6))
        >>> optimizer = ConMeZO([theta], lr=0.02, eps=1e-3, momentum=0.9)
        >>> losses = [optimizer.step(lambda: theta.square().sum()) for _ in range(50)]
        >>> losses[-1] < losses[0], list(optimizer.state[theta])
        (True, ['momentum'])
    """

    angle = Hyperparameter[float](
        number, lambda t: 0 <= t <= math.pi / 2, "an angle from 0 to pi / 2 is valid"
    )
    momentum = Hyperparameter[float](
        number, lambda b: 0 <= b < 1, "a number in [0, 1) is valid", scope="group"
    )
    start: Hyperparameter[Start] = Hyperparameter(one_of(Start), scope="construction")
    warmup: Hyperparameter[Warmup] = Hyperparameter(one_of(Warmup))
    state_dtype: Hyperparameter[StateDtype] = Hyperparameter(
        one_of(StateDtype), scope="construction"
    )

    def __init__(
        self,
        params: Params,
        *,
        lr: float = 1e-6,
        num_directions: int = 1,
        angle: float = 1.35,
        momentum: float = 0.99,
        start: Start = "zero",
        warmup: Warmup = "none",
        state_dtype: StateDtype = "float32",
        **options: Unpack[DifferenceOptions],
    ) -> None:
        self.angle, self.momentum = angle, momentum
        self.start, self.warmup, self.state_dtype = start, warmup, state_dtype
        super().__init__(params, lr=lr, num_directions=num_directions, **options)

    def directions(self) -> Directions:
        """z', with m as it stands when the step begins."""
        return Cone(self._family, self._momentum(), self.angle)

    @torch.no_grad()
    def apply_(self, oracle: LossOracle, gradient: Terms) -> None:
        oracle.home()
        for i, p, group in self.with_groups():
            g = oracle.dense(i, gradient)  # with the m that was measured along
            m, b = self.state[p]["momentum"], self._decay(group["momentum"])
            oracle.add_(i, -group["lr"] * g, decay=1 - group["lr"] * group["weight_decay"])
            m.mul_(b).add_(g.to(m.dtype), alpha=1 - b)

    def _decay(self, b: float) -> float:
        """b of this step."""
        first, steady, start = 200, 2000, 0.1
        if self.warmup == "none" or self.num_steps > steady:
            return b
        share = max(self.num_steps - first, 0) / (steady - first)
        return b - (b - start) / (1 + 8 * share**1.8) ** 3

    def _momentum(self) -> Sequence[Tensor]:
        number_of = {id(p): number for number, p in enumerate(self._numbered)}
        for p in self._params:
            if "momentum" not in self.state[p]:
                dtype = dtype_of_state(p, self.state_dtype)
                self.state[p]["momentum"] = (
                    noise.values(
                        p.shape, number_of[id(p)], mix64(self.seed, 0, -6), device=p.device
                    ).to(dtype)
                    if self.start == "noise"
                    else torch.zeros_like(p, dtype=dtype)
                )
        return [self.state[p]["momentum"] for p in self._params]
