"""PerExample, a family with a direction of two thin factors for each example of a batch."""

from collections.abc import Sequence, Set

import torch
from torch import Tensor

from bszo.perturb import noise
from bszo.perturb.directions.factored import AT_ONCE, product
from bszo.perturb.directions.gaussian import COMPILE_FROM
from bszo.perturb.directions.outer_product import OuterProduct
from bszo.perturb.noise import Terms
from bszo.perturb.noise.seeds import mix64


class PerExample(OuterProduct):
    """z_e = A_e B_e^T / sqrt(r) for the weights of some matrices, and 0 for everything else.

    The factors of all examples are drawn in one call, and a sum over examples is one product,
    sum_e c_e z_e = [c_1 A_1 .. c_G A_G] [B_1 .. B_G]^T / sqrt(r).

    Args:
        params: the parameters.
        rank: r.
        matrices: the numbers of the parameters that move; each has two axes.
    """

    def __init__(self, params: Sequence[Tensor], rank: int, matrices: Set[int]) -> None:
        super().__init__(params, rank)
        self.matrices = matrices
        self.fused = sum(self.params[i].numel() for i in matrices) >= COMPILE_FROM
        self._stacks: dict[int, dict[tuple[int, ...], tuple[Tensor, Tensor]]] = {}

    def own(self, index: int, terms: Terms) -> Terms:
        return terms if index in self.matrices else {}

    def direction(self, seed: int, index: int) -> Tensor:
        if index in self.matrices:
            return super().direction(seed, index)
        p = self.params[index]
        return torch.zeros(p.shape, dtype=torch.float32, device=p.device)

    def factors(self, seed: int, index: int) -> tuple[Tensor, Tensor] | None:
        return super().factors(seed, index) if index in self.matrices else None

    def stacks(self, seeds: Sequence[int], index: int) -> tuple[Tensor, Tensor] | None:
        """Return A / sqrt(r) (G, m, r) and B (G, n, r) of one matrix for G seeds, in fp32; they are
        kept until `release`. Another parameter has none."""
        if index not in self.matrices:
            return None
        kept, at = self._stacks.setdefault(index, {}), tuple(seeds)
        if at not in kept and at == sum(kept, ()):  # an update along all that the passes have drawn
            a, b = (torch.cat(parts) for parts in zip(*kept.values(), strict=True))
            return a, b
        if at not in kept:
            p = self.params[index]
            a, b = (
                noise.values_of_seeds(
                    torch.Size((side, self.rank)),
                    index,
                    [mix64(seed, which) for seed in seeds],
                    device=p.device,
                    fused=self.fused,
                )
                for which, side in enumerate(p.shape)
            )
            kept[at] = a / self.rank**0.5, b
        return kept[at]

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
        stacks = self.stacks(list(terms), index) if terms else None
        if stacks is None:  # it does not move, but for weight decay
            return super().shift(
                theta, index, {}, decay=decay, out=out, rounding_seed=rounding_seed
            )
        out = torch.empty_like(theta) if out is None else out
        wide = torch.promote_types(theta.dtype, torch.float32)
        a, b = stacks
        c = torch.tensor(list(terms.values()), dtype=torch.float64, device=a.device).to(wide)
        left = (a.to(wide) * c[:, None, None]).transpose(0, 1).flatten(1)  # (m, G r)
        right = b.to(wide).transpose(0, 1).flatten(1).mT  # (G r, n)
        step = max(1, AT_ONCE // theta.shape[1])
        for start in range(0, theta.shape[0], step):  # a part of a large matrix at a time
            rows = slice(start, start + step)
            acc = product(left[rows], right)
            acc.add_(theta[rows] if decay == 1.0 else theta[rows].to(wide) * decay)
            first = start * theta.shape[1]
            noise.round_to(acc, index, rounding_seed, out[rows], first=first, fused=self.fused)
        return out

    def release(self) -> None:
        super().release()
        self._stacks.clear()
