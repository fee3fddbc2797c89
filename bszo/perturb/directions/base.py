"""Families of random directions: a seed names one tensor a parameter, and the same call perturbs
and updates."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bszo.perturb import noise
from bszo.perturb.noise import Terms
from bszo.perturb.noise.gpu import Scalars

# elements of a model so small that z kept for one step costs less than making it again
KEEP_BELOW = 4_000_000


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
