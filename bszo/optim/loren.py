"""LOREN: leave-one-out estimates along directions that a rank-one curvature shapes, with heavy-ball
momentum."""

import math
from collections.abc import Sequence
from typing import Literal, Unpack

import torch
from torch import Tensor

from bszo.optim.base import ZerothOrderOptimizer
from bszo.optim.hyperparameter import Hyperparameter, is_rate, number, one_of, whole
from bszo.optim.momentum import follow_momentum_
from bszo.optim.options import DifferenceOptions, Params, StateDtype, dtype_of_state, require
from bszo.optim.report import StepReport
from bszo.perturb import Directions, LossOracle, RankOne, Terms, as_rows, mix64, noise, product

Score = Literal["unscaled", "as-run"]
Updates = Literal["once", "each-probe"]


class LOREN(ZerothOrderOptimizer):
    """M <- b M + sum_k w_k v_k / eps,  theta <- theta - lr (M + weight_decay theta),
    a <- a - curvature_lr sum_k w_k grad_a log p(v_k).

    y_k = L(theta + eps v_k) with v_k = S z_k (see `bszo.perturb.RankOne`), and w_k = (y_k - mean y)
    / (K - 1), which is 1/K of y_k less the mean of the others: the estimate needs no loss at theta.
    p is the density of v_k, whose precision is I + A A^T / rho for a matrix A with the row a in
    each of its m rows: grad_a log p(v) = m a / (rho + m |a|^2) - (a . c) c / rho with c the sum of
    v's rows. a starts as N(0, I). Forward passes a step: K. Extra memory: n elements of
    `state_dtype` for M, and one for each column of a matrix, each element of a vector, for a.

    Args:
        num_directions: K, at least 2.
        momentum: b; a group may have its own.
        damping: rho.
        curvature_lr: rate of a; 0 leaves a where it starts.
        score: "unscaled", as above, or "as-run": times eps^2 sqrt(rho), by which a stays where it
            starts (a step is 1e-11 of its size).
        updates: "once" a step, or "each-probe" (as run): M, theta and a move K times, each time by
            one term of the sums and with a decay of b and of the weights; the k-th v is then made
            from the a that the terms before it have left.
        state_dtype: of M and a: float32, or the parameter's own type where that has at least 32
            bits. A step of a is far below the last place of a 16-bit number, and in fp16 |A|^2
            overflows.
        params, lr, eps, weight_decay, ...: see ZerothOrderOptimizer.

    Raises:
        OptimError: state_dtype="parameter" and a parameter of 16 bits.

    Source: Seung et al. 2025, arXiv 2511.07971.

    Example:
        >>> import torch
        >>> from bszo import LOREN
        >>> theta = torch.nn.Parameter(torch.ones(6, 5))
        >>> optimizer = LOREN([theta], lr=2e-3, eps=1e-3)
        >>> losses = [optimizer.step(lambda: theta.square().sum()) for _ in range(50)]
        >>> losses[-1] < losses[0], optimizer.state[theta]["curvature"].shape
        (True, torch.Size([5]))
    """

    num_directions = Hyperparameter[int](
        whole, lambda k: k >= 2, "at least 2 are valid: each is compared with the others"
    )
    momentum = Hyperparameter[float](
        number, lambda b: 0 <= b < 1, "a number in [0, 1) is valid", scope="group"
    )
    damping = Hyperparameter[float](
        number, lambda rho: rho > 0 and is_rate(rho), "a positive, finite number is valid"
    )
    curvature_lr = Hyperparameter[float](
        number, is_rate, "a finite number of at least 0 is valid", scope="group"
    )
    score: Hyperparameter[Score] = Hyperparameter(one_of(Score))
    updates: Hyperparameter[Updates] = Hyperparameter(one_of(Updates))
    state_dtype: Hyperparameter[StateDtype] = Hyperparameter(
        one_of(StateDtype), scope="construction"
    )

    def __init__(
        self,
        params: Params,
        *,
        lr: float = 1e-6,
        num_directions: int = 6,
        momentum: float = 0.9,
        damping: float = 0.1,
        curvature_lr: float = 1e-3,
        score: Score = "unscaled",
        updates: Updates = "once",
        state_dtype: StateDtype = "float32",
        **options: Unpack[DifferenceOptions],
    ) -> None:
        self.num_directions, self.momentum, self.damping = num_directions, momentum, damping
        self.curvature_lr, self.score, self.updates = curvature_lr, score, updates
        self.state_dtype = state_dtype
        super().__init__(params, lr=lr, **options)

    def check(self) -> None:
        super().check()
        short = {p.dtype for p in self.trainable() if p.dtype.itemsize < 4}
        require(
            self.state_dtype == "float32" or not short,
            f"state_dtype='parameter': {', '.join(sorted(map(str, short)))} has too few digits for"
            " the steps of a curvature; float32 is valid",
        )

    def directions(self) -> Directions:
        """v = S z, with a as it stands when a direction is asked for."""
        return RankOne(self._family, self._curvature(), self.damping)

    def estimate(self, oracle: LossOracle) -> tuple[Terms, StepReport]:
        seeds = self.direction_seeds(self.num_directions)
        y = oracle.measure([{seed: self.eps} for seed in seeds])
        mean = sum(y) / len(y)
        slopes = [(y_k - mean) / self.eps for y_k in y]
        gradient = {
            seed: slope / (len(y) - 1) for seed, slope in zip(seeds, slopes, strict=True)
        }  # w_k / eps
        return gradient, StepReport(mean, tuple(slopes))

    def apply_(self, oracle: LossOracle, gradient: Terms) -> None:
        for terms in self._parts(gradient):
            follow_momentum_(self, oracle, terms, mean=False, state_dtype=self.state_dtype)
            self._learn(oracle, terms)

    def _parts(self, gradient: Terms) -> list[Terms]:
        """The gradient whole, or the k-th term of every block at a time."""
        if self.updates == "once":
            return [gradient]
        terms, k = list(gradient.items()), self.num_directions
        return [dict(terms[first::k]) for first in range(k)]

    @torch.no_grad()
    def _learn(self, oracle: LossOracle, terms: Terms) -> None:
        """a <- a - curvature_lr sum_k w_k grad_a log p(v_k)."""
        family, rho = oracle.directions, self.damping
        scale = self.eps * (self.eps**2 * math.sqrt(rho) if self.score == "as-run" else 1.0)
        for i, p, group in self.with_groups():
            a = self.state[p]["curvature"]
            if not p.numel():
                continue
            row, m = a.view(-1), as_rows(p).shape[0]
            score = torch.zeros_like(row)
            for seed, g in family.own(i, terms).items():  # g = w / eps
                c = as_rows(family.direction(seed, i)).to(a.dtype).sum(0)
                prior = m / (rho + m * float(product(row, row)))
                score.add_(row, alpha=g * prior).add_(c, alpha=-g * float(product(row, c)) / rho)
            row.sub_(score, alpha=group["curvature_lr"] * scale)

    def _curvature(self) -> Sequence[Tensor]:
        number_of = {id(p): number for number, p in enumerate(self._numbered)}
        for p in self._params:
            if "curvature" not in self.state[p]:
                shape = torch.Size((p.shape[1:].numel(),)) if p.ndim > 1 else p.shape
                start = noise.values(
                    shape, number_of[id(p)], mix64(self.seed, 0, -5), device=p.device
                )
                self.state[p]["curvature"] = start.to(dtype_of_state(p, self.state_dtype))
        return [self.state[p]["curvature"] for p in self._params]
