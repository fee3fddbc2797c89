"""Families of random directions: a seed names one tensor a parameter, and the same call perturbs
and updates."""

from collections.abc import Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from bszo.perturb import gpu, noise
from bszo.perturb.gpu import Scalars, Table
from bszo.perturb.noise import Distribution, Terms
from bszo.perturb.seeds import keys

# elements of a model so small that z kept for one step costs less than making it again
KEEP_BELOW = 4_000_000


class DirectionFunction(Protocol):
    """Any rule from a seed to one tensor a parameter, deterministic in the seed."""

    def __call__(self, params: Sequence[Tensor], seed: int, /) -> Sequence[Tensor]: ...


class Directions:
    """z = f(seed). A family says what `direction` is; how theta is shifted along it stands here,
    once.

    Args:
        params: the parameters, in the optimizer's order; an element's noise depends on its place in
            it.
    """

    def __init__(self, params: Sequence[Tensor]) -> None:
        self.params = list(params)
        self._kept: dict[int, list[Tensor]] = {}

    def __call__(self, params: Sequence[Tensor], seed: int) -> list[Tensor]:
        """One fp32 tensor a parameter, in its shape."""
        return [self.direction(seed, i) for i in range(len(params))]

    def direction(self, seed: int, index: int) -> Tensor:
        """z of one parameter, fp32, in its shape and on its device."""
        if seed not in self._kept:
            self._kept[seed] = list(self.make(seed))
        return self._kept[seed][index]

    def make(self, seed: int) -> Sequence[Tensor]:
        """All of z at once, kept until `release`; a family whose `direction` stands alone needs
        none."""
        return [self.direction(seed, i) for i in range(len(self.params))]

    def own(self, index: int, terms: Terms) -> Terms:
        """The terms that move this parameter; where none is left, an engine passes it by."""
        return terms

    def coordinates(self, seed: int, index: int) -> Tensor:
        """What names z in the family's basis, and is as long as what a momentum must keep; without
        one, z itself."""
        return self.direction(seed, index)

    def expand(self, coordinates: Tensor, index: int) -> Tensor:
        """The tensor, in the parameter's shape, that has these coordinates; linear in them."""
        return coordinates

    def carry(self, coordinates: Tensor, index: int, old: "Directions") -> Tensor:
        """Coordinates in the basis of `old`, a family of the same kind, projected on this one's."""
        return coordinates

    def shift(
        self,
        theta: Tensor,
        index: int,
        terms: Terms,
        *,
        decay: float = 1.0,
        out: Tensor | None = None,
        rounding_seed: int | None = None,
    ) -> Tensor:
        """decay theta + sum_i c_i z_i, summed in fp32 and rounded once (arguments:
        `noise.shift`)."""
        acc = _sum(theta, decay, [(c, self.direction(seed, index)) for seed, c in terms.items()])
        return noise.round_to(
            acc, index, rounding_seed, torch.empty_like(theta) if out is None else out
        )

    def scalars(self, terms: Terms) -> Scalars | None:
        """A shift of every parameter as one GPU's numbers; None where it takes more, or there is no
        such GPU."""
        return None

    def shift_all_(
        self, terms: Sequence[Terms], decay: Sequence[float], rounding_seeds: Sequence[int | None]
    ) -> None:
        """theta_p <- decay_p theta_p + sum_i c_i z_i of every parameter in place, one rounding
        each."""
        for i, p in enumerate(self.params):
            if terms[i] or decay[i] != 1.0:
                self.shift(
                    p.data, i, terms[i], decay=decay[i], out=p.data, rounding_seed=rounding_seeds[i]
                )

    def shift_rows(self, theta: Tensor, index: int, rows: Tensor, terms: Terms) -> Tensor:
        """`shift` of the given rows of a matrix only: (r,) rows -> (r, columns)."""
        z = [(c, self.direction(seed, index).index_select(0, rows)) for seed, c in terms.items()]
        return _sum(theta.index_select(0, rows), 1.0, z).to(theta.dtype)

    def release(self) -> None:
        """Forget what was kept for this step."""
        self._kept.clear()


def _sum(theta: Tensor, decay: float, z: Sequence[tuple[float, Tensor]]) -> Tensor:
    """decay theta + sum_i c_i z_i, in fp32 (fp64 for fp64 parameters), not rounded yet."""
    acc = theta.to(torch.promote_types(theta.dtype, torch.float32))
    if decay != 1.0:
        acc = decay * acc
    for c, z_i in z:
        acc = (c * z_i.to(acc.dtype)).add_(acc)
    return acc


class Gaussian(Directions):
    """z ~ N(0, I_n), or Rademacher: each element f(seed, parameter, element), made where it is
    used."""

    def __init__(self, params: Sequence[Tensor], distribution: Distribution = "gaussian") -> None:
        super().__init__(params)
        self.distribution: Distribution = distribution
        num_elements = sum(p.numel() for p in self.params)
        self.on_gpu = len({p.device for p in self.params}) == 1 and all(
            gpu.serves(p) for p in self.params
        )
        self.small = num_elements <= KEEP_BELOW and not self.on_gpu
        self.fused = num_elements >= noise.COMPILE_FROM
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
        """As `Directions.shift`; a curvature h, which no small model's family takes, makes it z /
        sqrt(h)."""
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
        """As `Directions.shift_rows`; `curvature` as in `shift`, of the rows."""
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


class Injected(Directions):
    """z from any rule (params, seed) -> one tensor a parameter; it is called once a seed and
    step."""

    def __init__(self, params: Sequence[Tensor], function: DirectionFunction) -> None:
        super().__init__(params)
        self.function = function

    def make(self, seed: int) -> Sequence[Tensor]:
        z = self.function(self.params, seed)
        shapes, wanted = [tuple(t.shape) for t in z], [tuple(p.shape) for p in self.params]
        if shapes != wanted:
            raise ValueError(
                f"directions= returned tensors of shapes {shapes}, the parameters have {wanted}"
            )
        return z


class Scaled(Directions):
    """z / sqrt(H), element by element, with the H that the optimizer keeps, as it stands at the
    call (HiZOO)."""

    def __init__(self, base: Directions, curvature: Sequence[Tensor]) -> None:
        super().__init__(base.params)
        self.base, self.curvature = base, curvature

    def direction(self, seed: int, index: int) -> Tensor:
        h = self.curvature[index]
        return (
            self.base.direction(seed, index)
            * h.to(torch.promote_types(h.dtype, torch.float32)).rsqrt()
        )

    def shift(
        self,
        theta: Tensor,
        index: int,
        terms: Terms,
        *,
        decay: float = 1.0,
        out: Tensor | None = None,
        rounding_seed: int | None = None,
    ) -> Tensor:
        if isinstance(self.base, Gaussian) and not self.base.small:
            return self.base.shift(
                theta,
                index,
                terms,
                decay=decay,
                out=out,
                rounding_seed=rounding_seed,
                curvature=self.curvature[index],
            )
        return super().shift(theta, index, terms, decay=decay, out=out, rounding_seed=rounding_seed)

    def shift_rows(self, theta: Tensor, index: int, rows: Tensor, terms: Terms) -> Tensor:
        if isinstance(self.base, Gaussian) and not self.base.small:
            return self.base.shift_rows(
                theta, index, rows, terms, curvature=self.curvature[index][rows]
            )
        return super().shift_rows(theta, index, rows, terms)

    def release(self) -> None:
        self.base.release()
