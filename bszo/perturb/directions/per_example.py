"""PerExample, a family with a direction for each example of a batch: two thin factors of a matrix,
or a vector."""

from collections.abc import Sequence, Set

import torch
from torch import Tensor

from bszo.perturb import noise
from bszo.perturb.directions.factored import product
from bszo.perturb.directions.outer_product import OuterProduct
from bszo.perturb.noise import Distribution, Terms
from bszo.perturb.noise.seeds import mix64

# the factors' numbers enter their seeds; a vector, or coordinates, take the seeds as they are
LEFT, RIGHT, VECTOR = 0, 1, 2


class PerExample(OuterProduct):
    """z_e = A_e B_e^T / sqrt(r) for the matrices that move, a z_e with independent elements for the
    vectors that do, and 0 for everything else. Factors and vectors are Gaussian, or signs.

    The factors of all examples are drawn in one call, and a sum over examples is one product,
    sum_e c_e z_e = [c_1 A_1 .. c_G A_G] [B_1 .. B_G]^T / sqrt(r), or (c_1 .. c_G) Z for a vector.

    Args:
        params: the parameters.
        rank: r.
        moved: the numbers of the parameters that move; each has one axis or two.
        distribution: of the factors' elements and of the vectors': "gaussian", or "rademacher" for
            +1 and -1 alike.
    """

    def __init__(
        self,
        params: Sequence[Tensor],
        rank: int,
        moved: Set[int],
        distribution: Distribution = "gaussian",
    ) -> None:
        super().__init__(params, rank)
        self.moved = moved
        self.distribution = distribution
        # (parameter, factor) -> {seeds: the factors under these}, in the order of the passes
        self._drawn: dict[tuple[int, int], dict[tuple[int, ...], Tensor]] = {}
        # (factor, seeds) -> the keys of all parameters, (G, parameters, 2)
        self._keys: dict[tuple[int, tuple[int, ...]], Tensor] = {}

    def own(self, index: int, terms: Terms) -> Terms:
        return terms if index in self.moved else {}

    def direction(self, seed: int, index: int) -> Tensor:
        if index in self.moved:
            return super().direction(seed, index)
        p = self.params[index]
        return torch.zeros(p.shape, dtype=torch.float32, device=p.device)

    def has_factors(self, index: int) -> bool:
        return index in self.moved and super().has_factors(index)

    def stacks(self, seeds: Sequence[int], index: int) -> tuple[Tensor, Tensor] | None:
        """Return A / sqrt(r) (G, m, r) and B (G, n, r) of one matrix for G seeds, in fp32; they are
        kept until `release`. Another parameter has none."""
        if not self._is_matrix(index):
            return None
        right = self.right(seeds, index)
        assert right is not None
        return self._stack(seeds, index, LEFT), right

    def left_rows(
        self, seeds: Sequence[int], index: int, rows: Tensor, of: Tensor
    ) -> Tensor | None:
        """Return rows of A / sqrt(r), (*rows.shape, r) in fp32. No others are drawn, and none is
        kept: a table of words has many, of which a batch reads few."""
        if not self._is_matrix(index):
            return None
        columns = torch.arange(self.rank, device=rows.device)
        counter = rows[..., None] * self.rank + columns
        left = [mix64(seed, LEFT) for seed in seeds]
        made = noise.values_at(counter, index, left, of[..., None], distribution=self.distribution)
        return made / self.rank**0.5

    def right(self, seeds: Sequence[int], index: int) -> Tensor | None:
        return self._stack(seeds, index, RIGHT) if self._is_matrix(index) else None

    def vectors(self, seeds: Sequence[int], index: int) -> Tensor | None:
        """Return z (G, n) of one vector for G seeds, in fp32; kept until `release`."""
        moves = index in self.moved and not self._is_matrix(index)
        return self._stack(seeds, index, VECTOR) if moves else None

    def _is_matrix(self, index: int) -> bool:
        return index in self.moved and self.params[index].ndim == 2

    def _stack(self, seeds: Sequence[int], index: int, which: int) -> Tensor:
        kept, at = self._drawn.setdefault((index, which), {}), tuple(seeds)
        if at not in kept and at == sum(kept, ()):  # an update along all that the passes have drawn
            return torch.cat(list(kept.values()))
        if at not in kept:
            kept[at] = self._draw(seeds, index, which)
        return kept[at]

    def _draw(self, seeds: Sequence[int], index: int, which: int) -> Tensor:
        p = self.params[index]
        if which == VECTOR:
            return self._values(p.shape, index, seeds, which)
        side = torch.Size((p.shape[which], self.rank))
        made = self._values(side, index, seeds, which)
        return made / self.rank**0.5 if which == LEFT and self.rank > 1 else made

    def _values(self, shape: torch.Size, index: int, seeds: Sequence[int], which: int) -> Tensor:
        of = which, tuple(seeds)
        if of not in self._keys:  # of all parameters at once
            own = seeds if which == VECTOR else [mix64(seed, which) for seed in seeds]
            self._keys[of] = noise.keys_of_seeds(own, len(self.params))
        return noise.values_of_keys(
            shape,
            self._keys[of][:, index],
            device=self.params[index].device,
            distribution=self.distribution,
            fused=self.fused,
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
        if index not in self.moved or not terms:  # it does not move, but for weight decay
            return super().shift(
                theta, index, {}, decay=decay, out=out, rounding_seed=rounding_seed
            )
        out = torch.empty_like(theta) if out is None else out
        wide = torch.promote_types(theta.dtype, torch.float32)
        seeds = list(terms)
        c = torch.tensor(list(terms.values()), dtype=torch.float64, device=theta.device).to(wide)
        z = self.vectors(seeds, index)
        if z is None:
            left, right = self._summed(seeds, index, c)
            return self.add_product(theta, index, left, right, decay, out, rounding_seed)
        step = product(c, z.to(wide))
        return noise.add(
            theta, step, index, decay=decay, out=out, rounding_seed=rounding_seed, fused=self.fused
        )

    def _summed(self, seeds: Sequence[int], index: int, c: Tensor) -> tuple[Tensor, Tensor]:
        """Return two factors of sum_e c_e z_e, (m, q) and (q, n), in c's type."""
        stacks = self.stacks(seeds, index)
        assert stacks is not None
        a, b = (part.to(c.dtype) for part in stacks)
        left = (a * c[:, None, None]).transpose(0, 1).flatten(1)  # (m, G r)
        return left, b.transpose(0, 1).flatten(1).mT  # (G r, n)

    def release(self) -> None:
        super().release()
        self._drawn.clear()
        self._keys.clear()
