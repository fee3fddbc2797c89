"""MeZO-BCD: MeZO on one block of the parameters at a time."""

from typing import Any, Literal, Self, Unpack

from bszo.optim.hyperparameter import Hyperparameter, one_of
from bszo.optim.mezo import MeZO
from bszo.optim.options import DifferenceOptions, Params, require
from bszo.optim.report import StepReport
from bszo.perturb import LossOracle, Split, Terms, mix64

Order = Literal["cyclic", "random"]


class MeZOBCD(MeZO):
    """theta <- theta - lr (g z + weight_decay theta), with z zero outside the step's block b(t).

    g is MeZO's. Nothing is drawn or moved outside the block, but for weight decay, where there is
    any. Forward passes a step: 2 q. Extra memory: none.

    Args:
        blocks: transformer (a block is a layer of the stack; embeddings and head are two more),
            halves, linear or tensor: see `bszo.perturb.partition`.
        order: cyclic, b(t) = t mod B from the input side on, or random, each block as likely at
            every step.
        params, lr, eps, num_directions, ...: see MeZO.

    Raises:
        OptimError: `blocks` that the module has none of.

    Source: Park et al. 2025, arXiv 2501.19099.

    Example:
        >>> import torch
        >>> from bszo import MeZOBCD
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 1)).eval()
        >>> optimizer = MeZOBCD(net.parameters(), lr=0.01, eps=1e-3, blocks="tensor", module=net)
        >>> before = net[1].weight.clone()
        >>> _ = optimizer.step(lambda: net(torch.eye(3)).square().mean())  # the first block's turn
        >>> torch.equal(before, net[1].weight)
        True
    """

    blocks: Hyperparameter[Split] = Hyperparameter(one_of(Split), scope="construction")
    order: Hyperparameter[Order] = Hyperparameter(one_of(Order))

    def __init__(
        self,
        params: Params,
        *,
        lr: float = 1e-6,
        num_directions: int = 1,
        blocks: Split = "transformer",
        order: Order = "cyclic",
        **options: Unpack[DifferenceOptions],
    ) -> None:
        self.blocks, self.order = blocks, order
        super().__init__(params, lr=lr, num_directions=num_directions, **options)
        self.restrict()

    def restrict(self, *, blocks: Split | Literal["none"] = "none", **mask: Any) -> Self:
        """A mask as for every method; the blocks are the method's own."""
        require(
            blocks in ("none", self.blocks),
            f"blocks={blocks!r}: MeZO-BCD was built with blocks={self.blocks!r}; "
            "none is valid beside that",
        )
        before = self.restriction
        if before is not None and not before.sparsity:
            self.restriction = None  # the constructor's own, which this one takes the place of
        try:
            return super().restrict(blocks=self.blocks, **mask)
        finally:
            self.restriction = self.restriction or before  # where this one was refused

    def turn(self) -> int:
        """The number of the block whose step this is."""
        assert self._restricted is not None
        turn = self.num_steps if self.order == "cyclic" else mix64(self.seed, self.num_steps, -4)
        return turn % len(self._restricted.blocks)

    def reach(self) -> list[float]:
        assert self._restricted is not None
        block = self._restricted.blocks[self.turn()].indices
        shares = super().reach() or [1.0] * len(self._restricted.params)
        return [share if i in block else 0.0 for i, share in enumerate(shares)]

    def gradient(self, oracle: LossOracle) -> tuple[Terms, StepReport]:
        self._block = self.turn()
        try:
            return self.estimate(oracle)
        finally:
            self._block = 0
