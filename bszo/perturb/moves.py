"""Moves of theta that last: along directions, by a dense step, by weight decay. Nothing else makes
any; a walk brings theta back after each measurement."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bszo.perturb.directions.base import COMPILE_FROM, Directions
from bszo.perturb.engines.base import Engine
from bszo.perturb.noise import Terms, add


class Moves:
    """theta <- decay theta + sum_i c_i z_i, or + a dense step, with the rounding of one step.

    Args:
        params: the parameters, in the optimizer's order.
        directions: the family that turns a seed into z.
        engine: how the perturbed parameters come about.
        rounding_seed: rounds moves of bf16 parameters stochastically; None, and other types, round
            to nearest.
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        directions: Directions,
        engine: Engine,
        rounding_seed: int | None = None,
    ) -> None:
        self.params = list(params)
        self.directions = directions
        self.engine = engine
        self.rounding_seed = rounding_seed
        self._fused = sum(p.numel() for p in self.params) >= COMPILE_FROM

    @torch.no_grad()
    def home(self) -> None:
        """Bring theta to where the step began, as it must be before it is moved."""
        self.engine.home(self.directions)

    @torch.no_grad()
    def move_(
        self,
        gradient: Terms,
        lr: Sequence[float],
        weight_decay: Sequence[float],
        *,
        along: Directions | None = None,
    ) -> None:
        """theta_p <- theta_p - lr_p (sum_i g_i z_i + weight_decay_p theta_p), one pass, one
        rounding.

        Args:
            gradient: {seed: g}.
            lr: a rate for each parameter.
            weight_decay: likewise.
            along: other directions than those that were measured along.
        """
        self.home()
        family = along or self.directions
        terms = [
            family.own(i, {seed: -rate * g for seed, g in gradient.items()})
            for i, rate in enumerate(lr)
        ]
        decay = [1.0 - rate * w for rate, w in zip(lr, weight_decay, strict=True)]
        family.shift_all_(terms, decay, [self._rounding(p) for p in self.params])

    @torch.no_grad()
    def dense(self, index: int, gradient: Terms) -> Tensor:
        """sum_i g_i z_i of one parameter, fp32 (fp64 for fp64 parameters)."""
        p = self.params[index]
        total = torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32))
        return self.directions.shift(total, index, gradient, out=total)

    @torch.no_grad()
    def coordinates(self, index: int, gradient: Terms) -> Tensor:
        """sum_i g_i c_i of one parameter, c_i the coordinates of z_i in the family's basis; in the
        type of `dense`."""
        wide = torch.promote_types(self.params[index].dtype, torch.float32)
        own = self.directions.own(index, gradient)
        total = sum(
            g * self.directions.coordinates(seed, index).to(wide) for seed, g in own.items()
        )
        assert isinstance(total, Tensor)
        return total

    @torch.no_grad()
    def add_(self, index: int, delta: Tensor, decay: float = 1.0) -> None:
        """theta_p <- decay theta_p + delta for one parameter and a dense delta, with one
        rounding."""
        p = self.params[index]
        rounding_seed, fused = self._rounding(p), self._fused
        add(p.data, delta, index, decay=decay, out=p.data, rounding_seed=rounding_seed, fused=fused)

    @torch.no_grad()
    def decay_(self, index: int, decay: float) -> None:
        """theta_p <- decay theta_p for one parameter, with one rounding."""
        p = self.params[index].data
        if decay != 1.0:
            rounding_seed = self._rounding(p)
            self.directions.shift(p, index, {}, decay=decay, out=p, rounding_seed=rounding_seed)

    def _rounding(self, p: Tensor) -> int | None:
        return self.rounding_seed if p.dtype == torch.bfloat16 else None
