"""Hybrid ZO-FO: the last blocks train by backpropagation, all blocks before them by loss values."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from bszo.errors import NonFiniteLoss, OptimError
from bszo.optim.base import ZerothOrderOptimizer
from bszo.optim.copied import Copied
from bszo.optim.first_order import Algorithm, FirstOrder
from bszo.optim.options import Params, require, require_failed
from bszo.optim.report import StepReport
from bszo.perturb import Closure, Split, partition


class Hybrid(Copied):
    """theta_low <- zeroth_order(theta_low),  theta_high <- algorithm(theta_high, dL/dtheta_high).

    theta_high is the last `num_blocks` blocks of theta, theta_low is the rest, and both updates are
    computed at the same theta. The backward pass stops at the border between the two: theta_low
    requires no gradient while the forward pass is recorded, so that no activation below the border
    is kept. Forward passes a step: 1, and those of the zeroth-order method. Backward passes a step:
    1, through the last blocks. Extra memory: gradients of theta_high, what the algorithm keeps for
    it, the activations of the last blocks, and what the zeroth-order method keeps.

    Args:
        params: parameters or groups; both theta_low and theta_high are found among them.
        zeroth_order: (params, seed=, module=, ...) -> a zeroth-order optimizer, such as
            `partial(MeZO, lr=1e-6)`.
        algorithm: params -> a torch optimizer, such as `partial(torch.optim.AdamW, lr=1e-4)`.
        num_blocks: the number of blocks in theta_high. The head is the last block where it has
            parameters of its own.
        blocks: says what a block is (`bszo.perturb.partition`). Weights that embeddings and head
            share count as embeddings, so that they belong to theta_low.
        weight_decay: for groups that set none, on both sides of the border; None leaves each
            method its own. Below it a step multiplies theta by 1 - lr weight_decay, above it the
            algorithm does what it does with one.
        gradient_checkpointing: as in FirstOrder.
        seed, module: as in ZerothOrderOptimizer.

    Raises:
        OptimError: a border out of range, no such blocks in the module, a zeroth-order method that
            takes a loss an example, or two values for one weight decay.

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

    per_example: ClassVar[bool] = False  # the closure returns one loss

    def __init__(
        self,
        params: Params,
        *,
        zeroth_order: Callable[..., ZerothOrderOptimizer],
        algorithm: Algorithm,
        num_blocks: int = 1,
        blocks: Split = "transformer",
        weight_decay: float | None = None,
        gradient_checkpointing: bool = False,
        seed: int = 0,
        module: nn.Module | None = None,
    ) -> None:
        given: list[Any] = list(params)
        groups = given if given and isinstance(given[0], dict) else [{"params": given}]
        if weight_decay is not None:
            for name, method in (("zeroth_order", zeroth_order), ("algorithm", algorithm)):
                own = getattr(method, "keywords", {}).get("weight_decay", weight_decay)
                require(
                    own == weight_decay,
                    f"{name}: has weight_decay={own}, and weight_decay={weight_decay} is for both"
                    " methods; one of the two is valid",
                )
            groups = [{"weight_decay": weight_decay, **g} for g in groups]
        own_seed = getattr(zeroth_order, "keywords", {}).get("seed", seed)
        require(
            own_seed == seed,
            f"zeroth_order: has seed={own_seed}, and seed={seed} is its seed; one of the two is"
            " valid",
        )
        groups = [{**g, "params": [p for p in g["params"] if p.requires_grad]} for g in groups]
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
        require(
            not self.low.per_example,
            f"zeroth_order={type(self.low).__name__}: its closure returns a loss an example, and"
            " the backward pass takes one number; a method of one loss is valid",
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
    num_passes = property(lambda self: self.low.num_passes + self.high.num_passes)
    num_steps = property(lambda self: self.high.num_steps)
    exact = property(lambda self: self.low.exact)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group while the optimizer is being built.

        Raises:
            OptimError: it is built already, and nothing says on which side of the border the new
                parameters would lie.
        """
        require(
            "last" not in vars(self),
            "add_param_group(): on which side of the border is not said; "
            "Hybrid(...) anew with all parameters is valid",
        )
        super().add_param_group(param_group)

    def restrict(self, **restriction: Any) -> Self:
        """Restrict the part below the border, as `ZerothOrderOptimizer.restrict` does."""
        self.low.restrict(**restriction)
        return self

    def step(self, closure: Closure | None = None) -> float:  # type: ignore[override]
        """Take one step on the closure's batch and return the loss before it.

        The closure must return a tensor, which is differentiated.
        """
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
        reach = self.low.last.reach
        if reach:  # nothing is masked above the border
            reach += (1.0,) * (len(self.trainable()) - len(reach))
        self.last = replace(self.low.last, loss=value, losses=losses, reach=reach)
        return value

    def trainable(self) -> list[Tensor]:
        """The parameters that move, those below the border first."""
        above = (p for group in self.high.param_groups for p in group["params"] if p.requires_grad)
        return [*self.low.trainable(), *above]

    def next_forwards(self) -> int | None:
        """Those of the part below the border, and the one of the part above it."""
        low = self.low.next_forwards()
        return None if low is None else low + 1

    def skip(self) -> None:
        """Count the step that has just raised NonFiniteLoss, and leave the parameters in place."""
        require_failed(self._failed, self.num_steps)
        self._failed = False
        self.high.pass_by()
        self.low.pass_by()

    @contextmanager
    def _border(self) -> Iterator[None]:
        """While active, theta_low requires no gradient."""
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
        """Load the state of the same two methods, from which this one continues bit for bit.

        Raises:
            OptimError: something else has saved it.
        """
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
