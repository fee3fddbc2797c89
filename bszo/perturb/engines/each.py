"""Each: the engine in which every example of a batch sees parameters of its own."""

from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from bszo.errors import OptimError
from bszo.perturb.directions.base import Directions
from bszo.perturb.engines.base import Engine
from bszo.perturb.engines.hooks import Hooks, every_module_runs, is_differentiated, linear_layers
from bszo.perturb.engines.streaming import Streaming
from bszo.perturb.engines.watch import Watch
from bszo.perturb.noise import Terms

SeedsOf = Callable[[int], Sequence[int]]  # the number of examples -> a seed for each

Pause = Callable[[], AbstractContextManager[None]]


class Each(Engine):
    """Example e sees W + c z_e with z_e = A_e B_e^T, since a linear layer's answer is made so:

        y = W x + c A_e (B_e^T x)        for every position x of example e.

    W is only read: no W + c z is made, and nothing is to be restored. In 16 bits c z is not lost
    against a large W, for it meets y and not W. A position costs rank (m + n) multiplications more
    than the layer's m n. Extra memory: the factors, rank (m + n) an example and layer.

    A layer is refused by name where its rows cannot be told to be one example's, where nobody calls
    it as a module, and where its class computes its answer in another way than `nn.Linear`. Points
    that all examples share are seen as `Streaming` shows them.

    Args:
        params: all parameters, in the optimizer's order.
        module: the module that the closure runs.

    Source: Wen et al. 2018 (Flipout), arXiv 1803.04386; Sarkar et al. 2025 (EGGROLL), arXiv
        2511.16652.
    """

    def __init__(self, params: list[Tensor], module: nn.Module) -> None:
        self.shared = Streaming(params, module)
        self.params = params
        self.index = {id(p): i for i, p in enumerate(params)}
        self.layers = linear_layers(module, self.index)
        self.names = {m: name or type(m).__name__ for name, m in module.named_modules()}
        self.watched = False
        self.num_examples = 0  # in the last pass

    def at(self, directions: Directions, terms: Terms) -> AbstractContextManager[None]:
        return self.shared.at(directions, terms)

    def repair(self) -> bool:
        return self.shared.repair()

    @contextmanager
    def at_each(
        self,
        directions: Directions,
        seeds_of: SeedsOf,
        c: float,
        examples: Sequence[Tensor] = (),
    ) -> Iterator[None]:
        """While active, example e sees theta + c z_e.

        Args:
            directions: the family.
            seeds_of: the number of examples -> a seed for each.
            c: the same for all examples; at 0 they all see theta.
            examples: which example a position is of, for every form in which positions may come to
                a layer: integers (R,) or (R, T) for an input (R, T, n) or (R T, n), say. None are
                needed where the first axis of all inputs is the examples'.

        Raises:
            OptimError: before, where a layer's class has a formula of its own; inside, from a layer
                whose input has other axes; at the end, where a matrix that should move was used by
                no layer, or beside it.
        """
        moved = {i for i in self.layers.values() if directions.own(i, {0: 1.0})}
        self._require_plain(moved)
        ran: set[int] = set()
        seeds: list[int] = []
        masks: dict[tuple[Any, ...], Tensor] = {}  # which factor is a position's own
        beside: set[int] = set()
        running: list[int] = []
        self.num_examples = 1 + int(examples[0].max()) if examples else 0

        def enter(module: nn.Module, args: Any) -> None:
            if (i := self.layers.get(module)) is not None:
                running.append(i)

        def leave(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Tensor | None:
            if (i := self.layers.get(module)) is None:
                return None
            running.pop()
            if i not in moved:
                return None
            x = args[0] if args else kwargs["input"]
            ran.add(i)
            where = self._place(module, x, examples)
            if not self.num_examples:
                raise OptimError(f"{self.names[module]}: its input {tuple(x.shape)} has no example")
            if c == 0:
                return None
            if not seeds:
                seeds.extend(seeds_of(self.num_examples))
            with paused(), _without_autocast(output):
                stacks = directions.stacks(seeds, i)
                if stacks is None:
                    raise OptimError(
                        f"{self.names[module]}.weight: its directions have no two thin factors,"
                        " which an example's own direction needs"
                    )
                # in the answer's type and place: an autocast, or accelerate, has moved x there too
                x, a, b = (part.to(output) for part in (x, *stacks))
                if where is None:
                    return _of_rows(output, x, a, b, c)
                form = (where.data_ptr(), where.shape, where.stride(), output.device, output.dtype)
                if form not in masks:
                    of_factor = torch.arange(len(b), device=x.device).repeat_interleave(b.shape[-1])
                    masks[form] = (where.to(x.device).reshape(-1, 1) == of_factor).to(x.dtype)
                return _of_positions(output, x, a, b, c, masks[form])

        def seen(value: Any) -> None:
            i = self.index.get(id(value))
            if i is not None and i not in running:
                beside.add(i)

        with ExitStack() as stack:
            stack.enter_context(every_module_runs())
            watch = None if self.watched else Watch(seen, lambda *_: None)
            paused: Pause = nullcontext if watch is None else watch.paused
            hooks = Hooks(enter, leave, paused)
            stack.callback(hooks.remove)
            hooks.register()
            if watch is not None:
                stack.enter_context(watch)
            yield
        for i in sorted(moved):
            layer = next(m for m, number in self.layers.items() if number == i)
            if i not in ran or i in beside:
                how = (
                    "was used beside its layer"
                    if i in ran
                    else "is to move, and its layer did not run"
                )
                raise OptimError(
                    f"{self.names[layer]}.weight {how}: an example's own direction is only"
                    " seen by a linear layer that runs as a module; freezing it is valid"
                )
        self.watched = True

    def _require_plain(self, moved: Set[int]) -> None:
        """OptimError for a layer that moves and does not answer W x + b: a subclass may scale,
        mask or round W first."""
        for layer, i in self.layers.items():
            wrapped = "forward" in vars(layer) and not hasattr(layer, "_hf_hook")  # by accelerate
            if i in moved and (wrapped or type(layer).forward is not nn.Linear.forward):
                raise OptimError(
                    f"{self.names[layer]}: {type(layer).__name__} computes its answer in a way of"
                    " its own, which need not be W x + b; freezing its weight is valid"
                )

    def _place(self, layer: nn.Module, x: Tensor, places: Sequence[Tensor]) -> Tensor | None:
        """The example of each position of x, or None where its first axis is the examples'."""
        if is_differentiated():
            raise OptimError(
                f"{self.names[layer]}: the closure differentiates, which a direction of each"
                " example's own does not go with; losses alone are valid"
            )
        lead = x.shape[:-1]
        for place in places:
            if lead == (place.numel(),):  # the positions of all rows, one after another
                return place.reshape(-1)
            if lead[: place.ndim] == place.shape:
                return place.view(*place.shape, *(1,) * (len(lead) - place.ndim)).expand(lead)
        if not places and self.num_examples in (0, len(x)) and lead:
            self.num_examples = len(x)
            return None
        wanted = " or ".join(str(tuple(p.shape)) for p in places) or f"{self.num_examples} examples"
        raise OptimError(
            f"{self.names[layer]}: its input is of shape {tuple(x.shape)}, not with {wanted} first:"
            " its rows cannot be told to be one example's; freezing its weight is valid"
        )


def _without_autocast(y: Tensor) -> AbstractContextManager[Any]:
    kind = y.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def _of_rows(y: Tensor, x: Tensor, a: Tensor, b: Tensor, c: float) -> Tensor:
    """y + c A_e (B_e^T x) in y's memory, for y (G, .., m) and x (G, .., n) whose first axis is the
    examples', a (G, m, r) and b (G, n, r)."""
    inner = torch.bmm(x.reshape(len(a), -1, x.shape[-1]), b)
    y.view(len(a), -1, y.shape[-1]).baddbmm_(inner, a.mT, alpha=c)
    return y


def _of_positions(y: Tensor, x: Tensor, a: Tensor, b: Tensor, c: float, mask: Tensor) -> Tensor:
    """The same for positions of any order. They meet the factors of all examples, of which the mask
    (positions, G r) leaves each its own: a little more arithmetic, in two products of matrices."""
    inner = x.reshape(-1, x.shape[-1]) @ b.transpose(0, 1).flatten(1)  # (positions, G r)
    y.view(-1, y.shape[-1]).addmm_(inner.mul_(mask), a.mT.flatten(0, 1), alpha=c)
    return y
