"""Blocks: directions that are zero outside one block of the parameters, and cost nothing there."""

from collections.abc import Sequence

import torch
from torch import Tensor

from bszo.errors import OptimError
from bszo.perturb.directions.base import Directions
from bszo.perturb.directions.partition import Block
from bszo.perturb.directions.wrapped import Wrapped
from bszo.perturb.noise import Terms


def seed_in_block(seed: int, block: int, num_blocks: int) -> int:
    """Return the seed next to `seed` whose direction lies in the block of this number.

    Raises:
        OptimError: there is no such block.
    """
    if not 0 <= block < num_blocks:
        raise OptimError(f"block={block}: a number from 0 to {num_blocks - 1} is valid")
    return seed - seed % num_blocks + block


class Blocks(Wrapped):
    """z = (0 .. 0, z_b, 0 .. 0) with z_b from the base family and b = seed mod B: the seed says
    which block.

    So a direction still depends on its seed alone, two blocks never share one, and {seed:
    coefficient} can name directions in several blocks at once. A parameter of another block costs
    neither noise nor a pass.

    Args:
        base: the family that draws z_b.
        blocks: the B blocks of its parameters (`partition`).

    Source: Zhang et al. 2024, arXiv 2402.11592, section 5 (block-wise).
    """

    def __init__(self, base: Directions, blocks: Sequence[Block]) -> None:
        # z of all parameters in one sweep would draw the other blocks' noise
        super().__init__(base.singly())
        self.blocks = list(blocks)
        self.block_of = {i: b for b, block in enumerate(self.blocks) for i in block.indices}

    def seed(self, seed: int, block: int) -> int:
        """Return the seed next to `seed` whose direction lies in the block of this number."""
        return seed_in_block(seed, block, len(self.blocks))

    def own(self, index: int, terms: Terms) -> Terms:
        block = self.block_of[index]
        return self.base.own(
            index, {s: c for s, c in terms.items() if s % len(self.blocks) == block}
        )

    def direction(self, seed: int, index: int) -> Tensor:
        if self.own(index, {seed: 1.0}):
            return self.base.direction(seed, index)
        p = self.params[index]
        return torch.zeros(p.shape, dtype=torch.float32, device=p.device)

    def coordinates(self, seed: int, index: int) -> Tensor:
        found = self.base.coordinates(seed, index)
        return found if self.own(index, {seed: 1.0}) else torch.zeros_like(found)

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
        own = self.own(index, terms)
        if own:
            return self.base.shift(
                theta, index, own, decay=decay, out=out, rounding_seed=rounding_seed
            )
        if decay != 1.0:
            return super().shift(
                theta, index, {}, decay=decay, out=out, rounding_seed=rounding_seed
            )
        return theta if out is None else out.copy_(theta)

    def shift_rows(self, theta: Tensor, index: int, rows: Tensor, terms: Terms) -> Tensor:
        own = self.own(index, terms)
        return self.base.shift_rows(theta, index, rows, own) if own else theta[rows]
