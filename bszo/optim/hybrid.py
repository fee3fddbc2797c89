"""Hybrid ZO-FO: backpropagation through the last blocks alone, loss values for all before them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Self

from torch import Tensor, nn

from bszo.errors import NonFiniteLoss, OptimError
from bszo.optim.base import ZerothOrderOptimizer, require_failed
from bszo.optim.copied import Copied
from bszo.optim.first_order import Algorithm, FirstOrder
from bszo.optim.options import Params, require
from bszo.optim.report import StepReport
from bszo.perturb import Closure, Split, partition


class Hybrid(Copied):
    """theta_low <- zeroth_order(theta_low),  theta_high <- algorithm(theta_high, dL / d
    theta_high), both from the same theta = (theta_low, theta_high), theta_high the last
    `num_blocks` blocks.

    The backward pass stops at the border: theta_low needs no gradient while it is recorded, so that
    no activation below is kept. Forward passes a step: 1 and the zeroth-order method's; backward
    passes: 1, through the last blocks. Extra memory: gradients and the algorithm's state of
    theta_high, activations of the last blocks, what the method keeps.

    Args:
        params: parameters or groups; theta_low and theta_high are found among them.
        zeroth_order: (params, seed=, module=, ...) -> a zeroth-order optimizer, such as
            `partial(MeZO, lr=1e-6)`.
        algorithm: params -> a torch optimizer, such as `partial(torch.optim.AdamW, lr=1e-4)`.
        num_blocks: blocks of theta_high; the head is the last, where it has parameters of its own.
        blocks: what a block is (`bszo.perturb.partition`); tied weights are embeddings, and so low.
        weight_decay: of groups that set none, low and high alike: theta (1 - lr weight_decay).
        gradient_checkpointing: as in FirstOrder.
        seed, module: as in ZerothOrderOptimizer.

    Raises:
        OptimError: a border out of range, or no such blocks in the module.

    Source: Zhang et al. 2024 (ZO-LLM), arXiv 2402.11592, section 5.

    Example:
        >>> from functools import partial
        >>> import torch
        >>> from bszo import Hybrid, MeZO
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 1)).eval()
        >>> optimizer = Hybrid(net.parameters(), zeroth_order=partial(MeZO, lr=0.01, eps=1e-3),
        ...                    algorithm=partial(torch.optim.SGD, lr=0.1), num_blocks=2,
        ...                    blocks="tensor", module=net)
        >>> x, y = torch.eye(4), torch.ones(4, 1)
        >>> losses = [optimizer.step(lambda: (net(x) - y).square().mean()) for _ in range(20)]
        >>> losses[-1] < losses[0], optimizer.num_forwards, optimizer.num_backwards
        (True, 60, 20)
    """

    def __init__(
        self,
        params: Params,
        *,
        zeroth_order: Callable[..., ZerothOrderOptimizer],
        algorithm: Algorithm,
        num_blocks: int = 1,
        blocks: Split = "transformer",
        weight_decay: float = 0.0,
        gradient_checkpointing: bool = False,
        seed: int = 0,
        module: nn.Module | None = None,
    ) -> None:
        given: list[Any] = list(params)
        groups = given if given and isinstance(given[0], dict) else [{"params": given}]
        groups = [
            {
                "weight_decay": weight_decay,
                **g,
                "params": [p for p in g["params"] if p.requires_grad],
            }
            for g in groups
        ]
        trainable = [p for g in groups for p in g["params"]]
        found = partition(trainable, blocks, module)
        require(
            0 < num_blocks < len(found),
            f"num_blocks={num_blocks}: there are {len(found)} blocks, and each method "
            f"needs one; 1 to {len(found) - 1} is valid",
        )
        self.num_blocks, self.blocks = num_blocks, blocks
        high = {id(trainable[i]) for block in found[-num_blocks:] for i in block.indices}
        self.low = zeroth_order(
            _part(groups, lambda p: id(p) not in high), seed=seed, module=module
        )
        self.high = FirstOrder(
            _part(groups, lambda p: id(p) in high),
            algorithm=algorithm,
            module=module,
            gradient_checkpointing=gradient_checkpointing,
        )
        super().__init__(self._groups(), {})
        self.param_groups = self._groups()
        self.last: StepReport | None = None
        self._failed = False

    num_forwards = property(lambda self: self.low.num_forwards + self.high.num_forwards)
    num_backwards = property(lambda self: self.high.num_backwards)
    num_steps = property(lambda self: self.high.num_steps)
    exact = property(lambda self: self.low.exact)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Only while it is made: OptimError later, where nothing says which of the two methods
        would move them."""
        require(
            "last" not in vars(self),
            "add_param_group(): on which side of the border is not said; "
            "Hybrid(...) anew with all parameters is valid",
        )
        super().add_param_group(param_group)

    def restrict(self, **restriction: Any) -> Self:
        """`ZerothOrderOptimizer.restrict` of the part below the border."""
        self.low.restrict(**restriction)
        return self

    def step(self, closure: Closure | None = None) -> float:  # type: ignore[override]
        """One step on the closure's batch, whose loss must be a tensor; returns the loss before
        it."""
        self._failed = False
        try:
            with self._border():
                value = self.high.backward(closure)
            self.low.step(closure)
        except BaseException as error:
            self._failed = isinstance(error, NonFiniteLoss)
            self.high.algorithm.zero_grad(set_to_none=True)
            raise
        self.high.move_()
        assert self.low.last is not None
        losses = (value, *self.low.last.losses)
        self.last = replace(self.low.last, loss=value, losses=losses, reach=())
        return value

    def next_forwards(self) -> int | None:
        """Those of the part below the border, and the one of the part above it."""
        low = self.low.next_forwards()
        return None if low is None else low + 1

    def skip(self) -> None:
        """Go on past the step that has just raised NonFiniteLoss; nothing has moved."""
        require_failed(self._failed, self.num_steps)
        self._failed = False
        self.high.pass_by()
        self.low.pass_by()

    @contextmanager
    def _border(self) -> Iterator[None]:
        low = self.low.trainable()
        try:
            for p in low:
                p.requires_grad_(False)
            yield
        finally:
            for p in low:
                p.requires_grad_(True)

    def _groups(self) -> list[dict[str, Any]]:
        return [*self.low.param_groups, *self.high.param_groups]

    def state_dict(self) -> dict[str, Any]:  # type: ignore[override]
        return {"low": self.low.state_dict(), "high": self.high.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue bit for bit from a `state_dict` of the same two methods."""
        if not {"low", "high"} <= state_dict.keys():
            raise OptimError(
                "state_dict has no entries 'low' and 'high': it was not saved by Hybrid"
            )
        self.low.load_state_dict(state_dict["low"])
        self.high.load_state_dict(state_dict["high"])
        self.param_groups = self._groups()


def _part(groups: Sequence[dict[str, Any]], keep: Callable[[Tensor], bool]) -> list[dict[str, Any]]:
    kept = [{**group, "params": [p for p in group["params"] if keep(p)]} for group in groups]
    return [group for group in kept if group["params"]]
