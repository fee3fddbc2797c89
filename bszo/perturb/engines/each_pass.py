"""EachPass: one forward pass in which every example sees parameters of its own."""

from collections.abc import Callable, Sequence, Set
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from bszo.errors import OptimError
from bszo.perturb.directions.base import COMPILE_FROM, Directions
from bszo.perturb.engines.hooks import is_differentiated
from bszo.perturb.engines.layers import Layer, Layers, without_autocast, words_of
from bszo.perturb.engines.own_product import OwnProducts

SeedsOf = Callable[[int], Sequence[int]]  # the number of examples -> a seed for each
LengthsOf = Callable[[int], Sequence[float]]  # the same -> c for each


class EachPass:
    """What the hooks of `Each` do in one pass, and what it has shown.

    Args:
        layers: the module's layers.
        directions: the family.
        moved: the numbers of the parameters that move.
        seeds_of, c, examples: see `Each.at_each`.
        told: layers of which it is known that their input's first axis is the examples'.

    Attributes:
        pause: a context in which a watch of the pass looks away.
        num_examples: in the pass; 0 until a layer has told.
        ran: the numbers of the parameters whose layer has run.
        beside: of those that were used while none of their layers ran.
        unsure: layers, not among the told, whose input would have the same shape were its axes
            another way round.
    """

    def __init__(
        self,
        layers: Layers,
        directions: Directions,
        moved: Set[int],
        seeds_of: SeedsOf,
        c: float | LengthsOf,
        examples: Sequence[Tensor],
        told: Set[nn.Module] = frozenset(),
    ) -> None:
        self.layers, self.directions, self.moved = layers, directions, moved
        self.told = told
        self.seeds_of, self.c, self.examples = seeds_of, c, examples
        self.pause: Callable[[], AbstractContextManager[None]] = nullcontext
        self.num_examples = _number_of(examples)
        self.ran: set[int] = set()
        self.beside: set[int] = set()
        self.seeds: list[int] = []
        self.lengths: Tensor | None = None  # (G,), where c is each example's own
        self.running: list[Layer] = []
        self.unsure: list[nn.Module] = []
        self._places: dict[tuple[torch.Size, bool], Tensor | None] = {}  # of each form of input
        self._products = OwnProducts(fused=sum(p.numel() for p in layers.params) >= COMPILE_FROM)

    def seen(self, value: Any) -> None:
        """A value has reached an operation: is it a parameter of which no layer runs?"""
        i = self.layers.index.get(id(value))
        if i is not None and not any(i in layer.numbers for layer in self.running):
            self.beside.add(i)

    def enter(self, module: nn.Module, args: Any) -> None:
        if (layer := self.layers.of(module)) is not None:
            self.running.append(layer)

    def leave(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Tensor | None:
        """Return the layer's answer at the examples' own parameters; None leaves it as it is."""
        if (layer := self.layers.of(module)) is None:
            return None
        self.running.pop()
        own = {i for i in layer.numbers if i in self.moved}
        if not own:
            return None
        self.ran |= own
        x = output if layer.kind != "linear" else next(iter((*args, *kwargs.values())))
        where = self._place(module, layer, x)
        if not self.num_examples:
            raise OptimError(f"{self._name(module)}: its input {tuple(x.shape)} has no example")
        if self.c == 0:
            return None
        if not self.seeds:
            self.seeds = list(self.seeds_of(self.num_examples))
            assert len(self.seeds) == self.num_examples
            if callable(self.c):
                c = self.c(self.num_examples)
                self.lengths = torch.tensor(c, dtype=torch.float32, device="cpu")
        weight, bias = (i if i in own else None for i in (layer.weight, layer.bias))
        with self.pause():
            if layer.kind == "linear":
                if layer.transposed:
                    with without_autocast(x):
                        self.layers.require_x_w(module, args, kwargs)
                answer = self._linear(module, layer, weight, bias, x, output, where)
            elif layer.kind == "lookup":
                answer = self._lookup(module, layer.weight, args, kwargs, output, where)
            else:
                answer = self._norm(module, weight, bias, args, kwargs, output, where)
        return answer

    def _linear(
        self,
        module: nn.Module,
        layer: Layer,
        weight: int | None,
        bias: int | None,
        x: Tensor,
        y: Tensor,
        where: Tensor | None,
    ) -> Tensor:
        """y + c (A_e (B_e^T x) + z_e) in y's memory; of a narrowed layer, its words' rows."""
        words = words_of(module)
        with without_autocast(y):
            if weight is not None:
                stacks = self._stacks(weight, words)
                if stacks is None:
                    raise OptimError(
                        f"{self._name(module)}.weight: its directions have no two thin factors,"
                        " which an example's own direction needs"
                    )
                a, b = stacks
                b = self._at_length(b)
                if layer.transposed:  # x z = (x A) B^T: the factors change places, nothing else
                    a, b = b, a
                # in the answer's type and place: an autocast, or accelerate, has moved x there too
                self._products.add_(y, x.to(y), a, b, where, self._common)
            if bias is not None:
                z = self._vectors(bias)
                z = z if words is None else z[:, words.to(z.device)]
                y.add_(_spread(z.to(y), y, where), alpha=self._common)
        return y

    def _lookup(
        self,
        module: nn.Module,
        weight: int | None,
        args: Any,
        kwargs: Any,
        y: Tensor,
        where: Tensor | None,
    ) -> Tensor:
        """y + c A_e[id] B_e^T, summed in fp32 at least."""
        assert weight is not None
        ids = self.layers.rows_read(module, args, kwargs, y)
        if ids.ndim == 2 and not self.layers.reads_words(module) and _goes_on_along_diagonals(ids):
            raise OptimError(
                f"{self._name(module)}: its input {tuple(ids.shape)} goes on along diagonals, as"
                " distances between positions do, whose rows are no example's; freezing its weight"
                " is valid"
            )
        if where is not None and ids.shape != where.shape and len(ids) == 1:
            # one row of positions serves all rows of the batch
            ids, y = ids.expand(where.shape), y.expand(*where.shape, y.shape[-1])
        wide = torch.promote_types(y.dtype, torch.float32)
        if where is not None:
            of = where.to(ids.device).view(ids.shape)
        else:
            of = torch.arange(len(ids), device=ids.device)
            of = of.view(-1, *(1,) * (ids.ndim - 1)).expand(ids.shape)
        device = self.layers.params[weight].device
        left = self.directions.left_rows(self.seeds, weight, ids.to(device), of.to(device))
        right = self.directions.right(self.seeds, weight)
        assert left is not None and right is not None
        with without_autocast(y):
            left, b = left.to(y.device, wide), self._at_length(right).to(y.device, wide)
            rank = b.shape[-1]
            if where is None:
                change = left.reshape(len(b), -1, rank) @ b.mT
            else:
                mask = self._products.mask(where, b, b)
                change = left.reshape(-1, rank).repeat(1, len(b)).mul_(mask)
                change = change @ b.mT.flatten(0, 1)
            return change.view(y.shape).mul_(self._common).add_(y).to(y.dtype)

    def _norm(
        self,
        module: nn.Module,
        weight: int | None,
        bias: int | None,
        args: Any,
        kwargs: Any,
        y: Tensor,
        where: Tensor | None,
    ) -> Tensor:
        """y + c (w_e * x' + z_e)."""
        normal = self.layers.normalised(module, args, kwargs, y)
        with without_autocast(y):
            if weight is not None:
                own = _spread(self._vectors(weight).to(y), y, where)
                y = torch.addcmul(y, normal, own, value=self._common)
            if bias is not None:
                own = _spread(self._vectors(bias).to(y), y, where)
                y = torch.add(y, own, alpha=self._common)
        return y

    def _stacks(self, weight: int, words: Tensor | None) -> tuple[Tensor, Tensor] | None:
        if words is None:
            return self.directions.stacks(self.seeds, weight)
        rows = words.to(self.layers.params[weight].device).expand(len(self.seeds), -1)
        of = torch.arange(len(self.seeds), device=rows.device)[:, None].expand(rows.shape)
        left = self.directions.left_rows(self.seeds, weight, rows, of)
        right = self.directions.right(self.seeds, weight)
        return None if left is None or right is None else (left, right)

    def _vectors(self, number: int) -> Tensor:
        found = self.directions.vectors(self.seeds, number)
        if found is None:
            raise OptimError(
                f"{self.layers.parameter_names[number]}: its directions are not drawn for many"
                " examples at once, which an example's own direction needs"
            )
        return self._at_length(found)

    @property
    def _common(self) -> float:
        """The c of all examples; 1 where each has its own, which stands in its factors."""
        return 1.0 if callable(self.c) else self.c

    def _at_length(self, stack: Tensor) -> Tensor:
        """c_e z_e for (G, ..) factors or vectors z_e, where c is each example's own."""
        if self.lengths is None:
            return stack
        return stack * self.lengths.to(stack).view(-1, *(1,) * (stack.ndim - 1))

    def _place(self, module: nn.Module, layer: Layer, x: Tensor) -> Tensor | None:
        """The example of each position of x, or None where its first axis is the examples'."""
        if is_differentiated():
            raise OptimError(
                f"{self._name(module)}: the closure differentiates, which a direction of each"
                " example's own does not go with; losses alone are valid"
            )
        lead, lookup = x.shape[:-1], layer.kind == "lookup"
        if (lead, lookup) not in self._places:
            self._places[lead, lookup] = self._found_place(module, x.shape, lookup)
        square = len(lead) > 1 and 1 < lead[0] == lead[1]
        # without `examples`, ids (B,) of B examples look like the ids of B positions
        alike = square or (lookup and len(lead) == 1 and not self.examples)
        if alike and module not in self.told and module not in self.unsure:
            self.unsure.append(module)
        return self._places[lead, lookup]

    def _found_place(self, module: nn.Module, shape: torch.Size, lookup: bool) -> Tensor | None:
        lead, places = shape[:-1], self.examples[:1] if lookup else self.examples
        for place in places:
            if lead == (place.numel(),):  # the positions of all rows, one after another
                return place.reshape(-1)
            if lead[: place.ndim] == place.shape:
                return (
                    place.view(*place.shape, *(1,) * (len(lead) - place.ndim))
                    .expand(lead)
                    .contiguous()
                )
            if lookup and place.ndim == 2 and lead == (1, place.shape[1]):
                return place  # one row of positions serves all rows of the batch
        if not places and lead and self.num_examples in (0, lead[0]):
            self.num_examples = lead[0]
            return None
        wanted = " or ".join(str(tuple(p.shape)) for p in places) or f"{self.num_examples} examples"
        raise OptimError(
            f"{self._name(module)}: its input is of shape {tuple(shape)}, not with {wanted}"
            " first: its rows cannot be told to be one example's; freezing its weight is valid"
        )

    def _name(self, module: nn.Module) -> str:
        return self.layers.name(module)


def _number_of(examples: Sequence[Tensor]) -> int:
    """How many examples the first form of places has, 0 for no form; those of the others are among
    them."""
    if not examples:
        return 0
    last = int(examples[0].max())
    for place in examples:
        if place.numel() and not 0 <= int(place.min()) <= int(place.max()) <= last:
            raise OptimError(
                f"examples: a position is of number {int(place.min())} or {int(place.max())};"
                f" 0 to {last}, the batch's rows, are valid"
            )
    return last + 1


def _spread(z: Tensor, y: Tensor, where: Tensor | None) -> Tensor:
    """Each position's own vector among z (G, n), in a shape that meets y (.., n)."""
    if where is None:
        return z.view(len(z), *(1,) * (y.ndim - 2), z.shape[-1])
    return z[where.to(z.device).reshape(-1)].view(y.shape)


def _goes_on_along_diagonals(ids: Tensor) -> bool:
    """Whether a square of three rows or more depends on the difference of row and column alone."""
    n, m = ids.shape
    return (
        n == m > 2
        and torch.equal(ids[1:, 1:], ids[:-1, :-1])
        and not torch.equal(ids[1:], ids[:-1])
    )
