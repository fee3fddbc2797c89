"""ZO-Muon: one-sided probes in a subspace of each matrix's columns, and a step along their
orthogonalised mean."""

from typing import Any, Literal, Unpack

import torch

from bszo.errors import OptimError
from bszo.optim.hyperparameter import Hyperparameter, flag, is_rate, number, one_of
from bszo.optim.one_sided import mean_of_probes, probe
from bszo.optim.options import OwnLengthOptions, Params, require
from bszo.optim.orthogonal import Update, orthogonalised
from bszo.optim.redrawn import Redrawn
from bszo.optim.report import StepReport
from bszo.perturb import ColumnSpace, Directions, LossOracle, Terms, mix64, partition

Redraw = Literal["once", "each-probe"]


def _rate_or_none(value: Any) -> float | None:
    return None if value is None else number(value)


class ZOMuon(Redrawn):
    """theta <- theta - lr (P msign(G) + weight_decay theta),  G = 1/N sum_i y_i u_i,
    y_i = (L(theta + eps P u_i) - L(theta)) / eps.

    P (m, r) has orthonormal columns, uniform over all such, and is redrawn every `interval` steps;
    u_i (r, n) is Gaussian and new at each. msign(G) = U V^T for G = U S V^T, so that a step's
    length, about 0.7 lr sqrt(r) a matrix, does not depend on the loss. A vector has Gaussian
    directions and moves as a matrix of one row, by about 0.7 lr G / |G|, with update="exact" by
    lr G / |G|. The orthogonalisation is in float32 whatever the parameters' type. Forward passes a
    step: N + 1. Extra memory: P, r m fp32 elements a matrix, and while it moves one tensor of the
    matrix's size.

    Args:
        num_directions: N.
        rank: r, clipped to each matrix's smaller side.
        interval: steps between redraws of P.
        update: "newton-schulz" (five rounds, as run), "exact" (by a singular value decomposition),
            or "norm": 0.7 sqrt(r) G / |G|_F in the place of msign(G), a step of the same length
            along the estimate itself.
        vector_lr: None, or the rate of vectors, which then move by vector_lr G whatever lr is (as
            run: 1e-7).
        redraw: "once", or "each-probe" (as run): on the steps that redraw P every probe has a P of
            its own, and the step takes the last one's for all, so that N - 1 of N terms point
            elsewhere than was measured.
        embeddings: whether embeddings and head are matrices too (as run). Without them they have
            Gaussian directions and move as vectors; they are found in `module`.
        params, lr, eps, weight_decay, seed, perturbation, module, directions, rounding: see
            ZerothOrderOptimizer. Where directions are injected, whole matrices are orthogonalised.

    Raises:
        OptimError: no parameter is a matrix; or embeddings=False without a module in which they
            could be found.

    Source: "ZO-Muon" 2026, arXiv 2602.17155, and its public code.

    Example:
        >>> import torch
        >>> from bszo import ZOMuon
        >>> theta = torch.nn.Parameter(torch.ones(6, 5))
        >>> optimizer = ZOMuon([theta], lr=0.02, rank=3, interval=10)
        >>> losses = [optimizer.step(lambda: theta.square().sum()) for _ in range(50)]
        >>> losses[-1] < losses[0], optimizer.num_forwards
        (True, 250)
    """

    update: Hyperparameter[Update] = Hyperparameter(one_of(Update))
    vector_lr = Hyperparameter[float | None](
        _rate_or_none,
        lambda rate: rate is None or is_rate(rate),
        "null or a finite number of at least 0 is valid",
        scope="group",
    )
    redraw: Hyperparameter[Redraw] = Hyperparameter(one_of(Redraw))
    embeddings = Hyperparameter[bool](flag, scope="construction")

    def __init__(
        self,
        params: Params,
        *,
        lr: float = 1e-2,
        eps: float = 1e-3,
        num_directions: int = 4,
        rank: int = 64,
        interval: int = 100,
        update: Update = "newton-schulz",
        vector_lr: float | None = None,
        redraw: Redraw = "once",
        embeddings: bool = True,
        **options: Unpack[OwnLengthOptions],
    ) -> None:
        self.update, self.vector_lr, self.redraw = update, vector_lr, redraw
        self.embeddings = embeddings
        super().__init__(
            params,
            lr=lr,
            eps=eps,
            num_directions=num_directions,
            rank=rank,
            interval=interval,
            **options,
        )
        self._outside()

    def estimate(self, oracle: LossOracle) -> tuple[Terms, StepReport]:
        seeds = self.direction_seeds(self.num_directions)
        redraws = self.num_steps % self.interval == 0 and not self.injected
        if self.redraw == "once" or not redraws:
            return probe(oracle, seeds, self.eps)
        f_0, losses = oracle.loss(), []
        for i, seed in enumerate(seeds[:-1]):
            with oracle.along(self.restricted(self.subspace(self.draw, i))):
                losses.append(oracle.loss({seed: self.eps}))
        losses.append(oracle.loss({seeds[-1]: self.eps}))
        return mean_of_probes(seeds, f_0, losses, self.eps)

    @torch.no_grad()
    def apply_(self, oracle: LossOracle, gradient: Terms) -> None:
        oracle.home()
        family, outside = oracle.directions, self._outside()
        for i, p, group in self.with_groups():
            g, matrix = oracle.coordinates(i, gradient), p.ndim > 1 and id(p) not in outside
            lr, vector_lr = group["lr"], group["vector_lr"]
            decay = 1 - lr * group["weight_decay"]
            if not matrix and vector_lr is not None:
                oracle.add_(i, -vector_lr * g, decay)
                continue
            # (r, n); a stack has one such for each of its matrices; what is no matrix is one row
            rows = g if family.compressed(i) else g.flatten(1) if matrix else g.reshape(1, -1)
            step = orthogonalised(rows, self.update).reshape(g.shape)
            oracle.add_(i, family.expand(-lr * step, i), decay)

    def subspace(self, draw: int, probe: int | None = None) -> Directions:
        """The family in the draw-th P, or in the one of a probe alone."""
        outside = self._outside()
        basis_seed = mix64(self.seed, draw, -2, *(() if probe is None else (probe,)))
        return self.numbered(
            lambda params: ColumnSpace(
                params,
                self.rank,
                basis_seed,
                whole=[i for i, p in enumerate(params) if id(p) in outside],
            )
        )

    def _outside(self) -> set[int]:
        """The ids of the embeddings and the head, where they are not orthogonalised."""
        if self.embeddings:
            return set()
        require(
            self.module is not None,
            "embeddings=False: needs module=, in which they are found; without it True is valid",
        )
        params = self.trainable()
        try:
            blocks = partition(params, "transformer", self.module)
        except OptimError as error:
            raise OptimError(f"embeddings=False: {error}; True is valid") from error
        return {
            id(params[i])
            for block in blocks
            if block.name in ("embeddings", "head")
            for i in block.indices
        }
