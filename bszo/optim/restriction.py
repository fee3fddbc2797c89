"""Restrictions of the directions of any method: entries masked, blocks estimated one by one."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from torch import Tensor, nn

from bszo.errors import OptimError
from bszo.optim.hyperparameter import number, whole
from bszo.perturb import (
    Block,
    Blocks,
    Directions,
    Mask,
    MaskScope,
    Sparse,
    Split,
    mix64,
    partition,
    zeros_of,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Restriction:
    """z <- M z with M diagonal, a share of it 0 and the rest 1; and one estimate a block, of M z in
    that block alone.

    Forward passes: the method's, times the number of blocks B; the directions of two blocks are
    independent, all are measured at the same theta, and the step moves all blocks. Extra memory:
    one number a parameter; masks are hashed anew from their seed wherever they are used.

    Args:
        sparsity: share of the entries of z that is zero, in [0, 1).
        mask_scope: layer: `sparsity` of every parameter's. global: a parameter's share follows from
            how many of its entries are among the least of all in magnitude, before the first step;
            `sparsity` is then the overall one. Parameters that it masks whole, such as an adapter's
            that start at 0, never move: the log counts them.
        mask_interval: steps between two draws of the mask.
        blocks: none: the whole is one. transformer, halves, linear, tensor: see
            `bszo.perturb.partition`.

    Raises:
        OptimError: a value that is none of these.

    Source: Zhang et al. 2024 (ZO-LLM), arXiv 2402.11592, section 5.
    """

    sparsity: float
    mask_scope: MaskScope
    mask_interval: int
    blocks: Split | Literal["none"]

    def __post_init__(self) -> None:
        if not _is(number, self.sparsity) or not 0 <= self.sparsity < 1:
            raise OptimError(
                f"sparsity={self.sparsity!r}: the share of zeros is in [0, 1); 0 is dense"
            )
        if self.mask_scope not in get_args(MaskScope):
            raise OptimError(f"mask_scope={self.mask_scope!r}: layer or global is valid")
        if not _is(whole, self.mask_interval) or self.mask_interval < 1:
            raise OptimError(f"mask_interval={self.mask_interval!r}: at least 1 step is valid")
        for name, usual in (("mask_scope", "layer"), ("mask_interval", 100)):
            if not self.sparsity and getattr(self, name) != usual:
                raise OptimError(
                    f"{name}={getattr(self, name)!r}: sparsity=0 has no mask; {usual!r} is valid"
                )

    @property
    def binds(self) -> bool:
        """Whether it leaves anything out or cuts anything up."""
        return self.sparsity > 0 or self.blocks != "none"


def _is(read: Callable[[Any], Any], value: Any) -> bool:
    try:
        read(value)
    except (TypeError, ValueError):
        return False
    return True


class Restricted:
    """A restriction on the parameters of one optimizer.

    Attributes:
        blocks: in the order in which they are measured; empty where the whole is one.
        zeros: entries to mask in each parameter, in expectation; part of the optimizer's state.
    """

    def __init__(
        self,
        restriction: Restriction,
        params: Sequence[Tensor],
        module: nn.Module | None,
        known: Sequence[tuple[Tensor, float]] = (),
    ) -> None:
        self.restriction, self.params = restriction, list(params)
        by = restriction.blocks
        self.blocks: list[Block] = [] if by == "none" else partition(self.params, by, module)
        self._shares = list(known)  # of the parameters here and of those that were here before
        share = {id(p): zeros for p, zeros in self._shares}
        new = [p for p in self.params if id(p) not in share]
        if restriction.sparsity and new:
            zeros = zeros_of(new, restriction.sparsity, restriction.mask_scope)
            self._shares += zip(new, zeros, strict=True)
            share = {id(p): zeros for p, zeros in self._shares}
        self.zeros = [share[id(p)] for p in self.params] if restriction.sparsity else []
        self._mask: Mask | None = None
        still = sum(
            zeros >= p.numel() > 0
            for zeros, p in zip(self.zeros, self.params, strict=bool(self.zeros))
        )
        if still:
            log.info(
                "sparsity=%s, mask_scope=%s: %d of %d parameters are masked whole and will not"
                " move",
                restriction.sparsity,
                restriction.mask_scope,
                still,
                len(self.params),
            )

    @property
    def bound(self) -> tuple[int, ...]:
        """The identities of these tensors, by which another set of them is noticed."""
        return tuple(id(p) for p in self.params)

    def on(self, params: Sequence[Tensor], module: nn.Module | None) -> "Restricted":
        """The same restriction on other parameters; those that it was on keep their share of
        zeros."""
        return Restricted(self.restriction, params, module, self._shares)

    def family(self, base: Directions, seed: int, step: int, numbers: Sequence[int]) -> Directions:
        """The method's family of this step, restricted; the mask of a parameter is named by its
        lasting number."""
        if self.zeros:
            mask_seed = mix64(seed, step // self.restriction.mask_interval, -3)
            if self._mask is None or self._mask.seed != mask_seed:
                self._mask = Mask(self.params, mask_seed, self.zeros, numbers)
            base = Sparse(base, self._mask)
        return Blocks(base, self.blocks) if self.blocks else base

    def reach(self) -> list[float]:
        """The share of each parameter's elements that the mask leaves, in expectation; empty
        without a mask."""
        return [
            1 - zeros / max(1, p.numel())
            for p, zeros in zip(self.params, self.zeros, strict=bool(self.zeros))
        ]

    def state(self, everything: Sequence[Tensor]) -> dict[str, Any]:
        """What `saved` needs: the restriction, and the zeros of all that are or were masked, with
        their places among all parameters."""
        places = {id(p): place for place, p in enumerate(everything)}
        shares = [(places[id(p)], zeros) for p, zeros in self._shares if id(p) in places]
        return {
            **asdict(self.restriction),
            "zeros": [zeros for _, zeros in shares],
            "places": [place for place, _ in shares],
        }

    def saved(
        self, state: dict[str, Any], everything: Sequence[Tensor], module: nn.Module | None
    ) -> "Restricted":
        """The restriction with the shares of the run that saved them.

        Raises:
            OptimError: the state is an older one, without places, and of another number of
                parameters.
        """
        params = [p for p in everything if p.requires_grad]
        zeros, places = state["zeros"], state.get("places")
        if places is None and len(zeros) != len(self.zeros):
            raise OptimError(
                f"state_dict was saved while {len(zeros)} parameters were masked, here"
                f" {len(self.zeros)} are: the same must require a gradient"
            )
        of = params if places is None else [everything[place] for place in places]
        known = list(zip(of, zeros, strict=bool(zeros)))
        return Restricted(self.restriction, params, module, known)
