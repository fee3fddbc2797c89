"""Directions: the interface of a family, in which a seed names one random tensor a parameter."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bszo.perturb import noise
from bszo.perturb.noise import Terms
from bszo.perturb.noise.gpu import Scalars

# A model with at most this many elements keeps z for one step, which costs less than making it
# again.
KEEP_BELOW = 4_000_000
# A model with at least this many elements takes the compiled kernel of a CPU, which on smaller ones
# would save little and change the last digits of every number.
COMPILE_FROM = 16_000_000


class Directions:
    """z = f(seed). A family says what `direction` is; this class says, once, how theta is shifted
    along it.

    Args:
        params: the parameters, in the optimizer's order. An element's noise depends on its place in
            that order.
    """

    def __init__(self, params: Sequence[Tensor]) -> None:
        self.params = list(params)
        self._kept: dict[int, list[Tensor]] = {}

    def __call__(self, params: Sequence[Tensor], seed: int) -> list[Tensor]:
        """Return one fp32 tensor a parameter, in the parameter's shape."""
        return [self.direction(seed, i) for i in range(len(params))]

    def direction(self, seed: int, index: int) -> Tensor:
        """Return z of one parameter: fp32, in its shape and on its device."""
        if seed not in self._kept:
            self._kept[seed] = list(self.make(seed))
        return self._kept[seed][index]

    def make(self, seed: int) -> Sequence[Tensor]:
        """Return all of z at once; it is kept until `release`. A family overrides `direction` or
        `make`: each asks the other by default."""
        return [self.direction(seed, i) for i in range(len(self.params))]

    def own(self, index: int, terms: Terms) -> Terms:
        """Return the terms that move this parameter. An engine passes a parameter by that has
        none."""
        return terms

    def compressed(self, index: int) -> bool:
        """Whether a parameter's coordinates are something else than z itself."""
        return False

    def coordinates(self, seed: int, index: int) -> Tensor:
        """Return the coordinates of z in the family's basis: what a momentum must keep of it. A
        family without a basis returns z itself."""
        return self.direction(seed, index)

    def expand(self, coordinates: Tensor, index: int) -> Tensor:
        """Return the tensor, in the parameter's shape, that has these coordinates; it is linear in
        them."""
        return coordinates

    def carry(self, coordinates: Tensor, index: int, old: "Directions") -> Tensor:
        """Project coordinates in the basis of `old`, a family of the same kind, on this family's
        basis."""
        return coordinates

    def has_factors(self, index: int) -> bool:
        """Whether a parameter has `factors`, without drawing them."""
        return False

    def factors(self, seed: int, index: int) -> tuple[Tensor, Tensor] | None:
        """Return A (m, r) and B (r, n) of a matrix with z = A B, of a stack of matrices A (experts,
        m, r) and B (experts, r, n). None means that z is no such product in the parameter's own
        shape."""
        return None

    def stacks(self, seeds: Sequence[int], index: int) -> tuple[Tensor, Tensor] | None:
        """Return the two thin factors of a matrix's directions under many seeds at once, A (G, m,
        r) and B (G, n, r). None means that it does not move, or that a family has no such
        factors."""
        return None

    def left_rows(
        self, seeds: Sequence[int], index: int, rows: Tensor, of: Tensor
    ) -> Tensor | None:
        """Return rows of the left factors alone, (*rows.shape, r): that of number `rows` of the
        `of`-th seed's A. None as for `stacks`."""
        return None

    def right(self, seeds: Sequence[int], index: int) -> Tensor | None:
        """Return the right factors alone, B (G, n, r). None as for `stacks`."""
        return None

    def vectors(self, seeds: Sequence[int], index: int) -> Tensor | None:
        """Return a vector's directions under many seeds at once, (G, n). None means that it does
        not move, or that a family draws them one by one."""
        return None

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
        """Return decay theta + sum_i c_i z_i, summed in fp32 and rounded once (the arguments are
        those of `noise.shift`)."""
        acc = _sum(theta, decay, [(c, self.direction(seed, index)) for seed, c in terms.items()])
        return noise.round_to(
            acc, index, rounding_seed, torch.empty_like(theta) if out is None else out
        )

    def scalars(self, terms: Terms) -> Scalars | None:
        """Return the numbers with which one GPU shifts any parameter along these terms. None means
        that a shift takes more than numbers, or that there is no such GPU."""
        return None

    def by_scalars(self, index: int) -> bool:
        """Whether `scalars` is enough for this parameter."""
        return True

    def shift_all_(
        self, terms: Sequence[Terms], decay: Sequence[float], rounding_seeds: Sequence[int | None]
    ) -> None:
        """Move every parameter in place, theta_p <- decay_p theta_p + sum_i c_i z_i, with one
        rounding each."""
        for i, p in enumerate(self.params):
            if terms[i] or decay[i] != 1.0:
                self.shift(
                    p.data, i, terms[i], decay=decay[i], out=p.data, rounding_seed=rounding_seeds[i]
                )

    def shift_rows(self, theta: Tensor, index: int, rows: Tensor, terms: Terms) -> Tensor:
        """Shift the given rows of a matrix only: (r,) row numbers -> (r, columns)."""
        z = [(c, self.direction(seed, index).index_select(0, rows)) for seed, c in terms.items()]
        return _sum(theta.index_select(0, rows), 1.0, z).to(theta.dtype)

    def singly(self) -> "Directions":
        """Return the same directions, drawn one parameter at a time where the family can."""
        return self

    def release(self) -> None:
        """Forget what was kept for this step."""
        self._kept.clear()


def _sum(theta: Tensor, decay: float, z: Sequence[tuple[float, Tensor]]) -> Tensor:
    """decay theta + sum_i c_i z_i, in fp32 (fp64 for fp64 parameters), not rounded yet."""
    wide = theta.to(torch.promote_types(theta.dtype, torch.float32))
    acc = wide if decay == 1.0 else (decay - 1.0) * wide  # theta comes last: see `noise.shift`
    for c, z_i in z:
        acc = (c * z_i.to(acc.dtype)).add_(acc)
    return acc if decay == 1.0 else acc + wide
