"""Gaussian, the family with independent elements: N(0, 1), or +1 and -1 alike."""

from collections.abc import Sequence
from copy import copy
from functools import partial

import torch
from torch import Tensor

from bszo.perturb import noise
from bszo.perturb.directions.base import COMPILE_FROM, KEEP_BELOW, Directions
from bszo.perturb.noise import Distribution, Terms, gpu
from bszo.perturb.noise.gpu import Scalars, Table
from bszo.perturb.noise.seeds import keys


class Gaussian(Directions):
    """z ~ N(0, I_n), or Rademacher. Each element is a function of (seed, parameter, element) and is
    made where it is used; a model of at most 4 million elements keeps z until `release`.

    Args:
        params: see Directions.
        distribution: of the elements: "gaussian", or "rademacher" for +1 and -1 alike.
    """

    def __init__(self, params: Sequence[Tensor], distribution: Distribution = "gaussian") -> None:
        super().__init__(params)
        self.distribution: Distribution = distribution
        num_elements = sum(p.numel() for p in self.params)
        self.on_gpu = len({p.device for p in self.params}) == 1 and all(
            gpu.serves(p) for p in self.params
        )
        self.small = num_elements <= KEEP_BELOW and not self.on_gpu
        self.fused = num_elements >= COMPILE_FROM
        self._table: Table | None = None  # of the parameters where they lie now

    def direction(self, seed: int, index: int) -> Tensor:
        if self.small:
            return super().direction(seed, index)
        p = self.params[index]
        return noise.values(
            p.shape, index, seed, device=p.device, distribution=self.distribution, fused=self.fused
        )

    def make(self, seed: int) -> Sequence[Tensor]:
        return noise.values_of_all(self.params, seed, distribution=self.distribution)

    def shift(
        self,
        theta: Tensor,
        index: int,
        terms: Terms,
        *,
        decay: float = 1.0,
        out: Tensor | None = None,
        rounding_seed: int | None = None,
        curvature: Tensor | None = None,
    ) -> Tensor:
        """Shift as `Directions.shift` does. A curvature h makes the direction z / sqrt(h); a family
        that keeps z does not heed it, for there `Scaled` divides."""
        if self.small:
            return super().shift(
                theta, index, terms, decay=decay, out=out, rounding_seed=rounding_seed
            )
        return noise.shift(
            theta,
            index,
            terms,
            decay=decay,
            out=out,
            rounding_seed=rounding_seed,
            distribution=self.distribution,
            fused=self.fused,
            curvature=curvature,
        )

    def singly(self) -> "Gaussian":
        if not self.small:
            return self
        single = copy(self)
        single.small, single._kept = False, {}
        return single

    def scalars(self, terms: Terms) -> Scalars | None:
        count = len(self.params)
        return self._scalars([terms] * count, [1.0] * count, None) if self.on_gpu else None

    def shift_all_(
        self, terms: Sequence[Terms], decay: Sequence[float], rounding_seeds: Sequence[int | None]
    ) -> None:
        values = [p.data for p in self.params]
        if not (
            self.on_gpu and Table.takes(values) and all(t.keys() == terms[0].keys() for t in terms)
        ):
            super().shift_all_(terms, decay, rounding_seeds)
            return
        if self._table is None or self._table.addresses != [v.data_ptr() for v in values]:
            self._table = Table(values, values, range(len(values)))
        self._table.launch(0, len(values), self._scalars(terms, decay, rounding_seeds[0]))

    def _scalars(
        self, terms: Sequence[Terms], decay: Sequence[float], rounding_seed: int | None
    ) -> Scalars:
        count = len(self.params)
        host = partial(torch.tensor, dtype=torch.float64, device="cpu")
        factors = host([[t[seed] for seed in terms[0]] for t in terms])
        return Scalars.of(
            [keys(seed, count) for seed in terms[0]],
            factors,
            host(decay),
            None if rounding_seed is None else keys(rounding_seed, count),
            self.params[0].device,
            self.distribution == "rademacher",
        )

    def shift_rows(
        self,
        theta: Tensor,
        index: int,
        rows: Tensor,
        terms: Terms,
        *,
        curvature: Tensor | None = None,
    ) -> Tensor:
        """Shift as `Directions.shift_rows` does; `curvature` is that of these rows."""
        if self.small:
            return super().shift_rows(theta, index, rows, terms)
        columns = torch.arange(theta.shape[1], dtype=torch.int32, device=theta.device)
        counter = rows.to(torch.int32)[:, None] * theta.shape[1] + columns  # (r, columns)
        return noise.shift(
            theta[rows],
            index,
            terms,
            distribution=self.distribution,
            counter=counter,
            curvature=curvature,
        )
