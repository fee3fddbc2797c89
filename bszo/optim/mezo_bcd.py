"""MeZO-BCD: MeZO on one block of the parameters at a time."""

from typing import Any, Literal, Self, get_args

from torch import nn

from bszo.optim.base import Params, Perturbation, Rounding, StepReport, require
from bszo.optim.mezo import MeZO
from bszo.perturb import DirectionFunction, LossOracle, Split, Terms, mix64


class MeZOBCD(MeZO):
    """theta <- theta - lr (g z + weight_decay theta), z zero outside the step's block b(t); g as in
    MeZO.

    Nothing is drawn or moved outside the block (but for weight decay, where there is any). Forward
    passes a step: 2 q. Extra memory: none.

    Args:
        blocks: transformer (a block is a layer of the stack; embeddings and head are two more),
            halves, linear or tensor: see `bszo.perturb.partition`.
        order: cyclic, b(t) = t mod B from the input side on, or random, each block as likely at
            every step.
        params, lr, eps, num_directions, ...: see MeZO.

    Raises:
        OptimError: `blocks` that the module has none of.

    Source: Park et al. 2025, arXiv 2501.19099.
    """

    def __init__(
        self,
        params: Params,
        *,
        lr: float = 1e-6,
        eps: float = 1e-4,
        num_directions: int = 1,
        blocks: Split = "transformer",
        order: Literal["cyclic", "random"] = "cyclic",
        weight_decay: float = 0.0,
        seed: int = 0,
        perturbation: Perturbation = "exact",
        module: nn.Module | None = None,
        directions: DirectionFunction | None = None,
        rounding: Rounding = "nearest",
    ) -> None:
        require(
            blocks in get_args(Split),
            f"blocks={blocks!r}: one of {', '.join(get_args(Split))} is valid",
        )
        require(order in ("cyclic", "random"), f"order={order!r}: cyclic or random is valid")
        super().__init__(
            params,
            lr=lr,
            eps=eps,
            num_directions=num_directions,
            weight_decay=weight_decay,
            seed=seed,
            perturbation=perturbation,
            module=module,
            directions=directions,
            rounding=rounding,
        )
        self.blocks: Split = blocks
        self.order = order
        self.restrict()

    def restrict(self, *, blocks: Split | Literal["none"] = "none", **mask: Any) -> Self:
        """A mask as for every method; the blocks are the method's own."""
        require(
            blocks in ("none", self.blocks),
            f"blocks={blocks!r}: MeZO-BCD was built with blocks={self.blocks!r}; "
            "none is valid beside that",
        )
        return super().restrict(blocks=self.blocks, **mask)

    def gradient(self, oracle: LossOracle) -> tuple[Terms, StepReport]:
        assert self._restricted is not None
        count = len(self._restricted.blocks)
        turn = self.num_steps if self.order == "cyclic" else mix64(self.seed, self.num_steps, -4)
        self._block = turn % count
        try:
            return self.estimate(oracle)
        finally:
            self._block = 0
