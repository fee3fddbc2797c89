"""ByFactors: the exact engine for directions of low rank, for which a linear layer's
perturbed weight is not made."""

from collections.abc import Callable, Iterator, Set
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bszo.errors import OptimError
from bszo.perturb.directions.base import Directions
from bszo.perturb.directions.factored import summed_factors
from bszo.perturb.engines.base import Engine
from bszo.perturb.engines.hooks import Hooks, is_differentiated, is_plain, linear_layers
from bszo.perturb.engines.layers import Layers, is_transposed, without_autocast
from bszo.perturb.engines.streaming import Streaming
from bszo.perturb.noise import Terms


class ByFactors(Engine):
    """Where z = A B is thin, a linear layer adds its part to the layer's answer,

        W x + b   + A' (B' x),      A' B' = sum_i c_i A_i B_i
        x W + b   + (x A') B'       of GPT-2's Conv1D, x a row

    and everything else is shown as `Streaming` shows it: embeddings, vectors, weights that have no
    thin factors, and layers that compute their answer in a way of their own.

    W is only read. In 16 bits c z is not lost against a large W, for it meets the answer and not W;
    so losses differ from those of the other exact engines by the rounding of the weights that
    these make. A position costs k r (m + n) multiplications more than its m n, at k directions of
    rank r. Extra memory: k r (m + n) of the layer that runs.

    Args:
        params: all parameters, in the optimizer's order.
        module: the module that the closure runs.
    """

    def __init__(self, params: list[Tensor], module: nn.Module) -> None:
        self.rest = Streaming(params, module)
        self.layers = Layers(params, module)
        linear = linear_layers(module, self.layers.index, is_transposed)
        strange = {i for m, i in linear.items() if not self.layers.is_plain(m)}
        self.linear = {m: i for m, i in linear.items() if i not in strange}

    @property
    def ready(self) -> bool:
        return self.rest.ready

    @contextmanager
    def at(self, directions: Directions, terms: Terms) -> Iterator[None]:
        shown = {
            i
            for i in set(self.linear.values()) - set(self.rest.copies.indices)
            if directions.own(i, terms) and directions.has_factors(i)
        }
        if terms and not shown:
            raise OptimError(
                "perturbation='factored': no linear layer that runs as a module has a direction of"
                " two thin factors, as those of LOZO and SubZero are; exact is valid"
            )
        with ExitStack() as stack:
            stack.enter_context(self.rest.at(directions, terms, shown))
            if terms:
                hooks = Hooks(_nothing, self._leave(directions, terms, shown), self.rest.unwatched)
                stack.callback(hooks.remove)
                hooks.register()
            yield

    def repair(self) -> bool:
        return self.rest.repair()

    def _leave(
        self, directions: Directions, terms: Terms, shown: Set[int]
    ) -> Callable[..., Tensor | None]:
        """What is done after any module has run."""

        def leave(module: nn.Module, args: Any, kwargs: Any, y: Any) -> Tensor | None:
            if (i := self.linear.get(module)) is None or i not in shown:
                return None
            x = next(iter((*args, *kwargs.values())))
            if is_differentiated() or not (is_plain(x) and is_plain(y)):
                self.rest.missed.add(i)  # the pass is taken again, with a copy of this weight
                return None
            with self.rest.unwatched(), without_autocast(y):
                transposed = is_transposed(module)
                if transposed:
                    self.layers.require_x_w(module, args, kwargs)
                wide = torch.promote_types(self.layers.params[i].dtype, torch.float32)
                factors = summed_factors(directions, i, directions.own(i, terms), wide)
                assert factors is not None
                return _with_change(x, y, *factors, transposed)

        return leave


def _nothing(*_: Any) -> None:
    """What is done before a module runs."""


def _with_change(x: Tensor, y: Tensor, a: Tensor, b: Tensor, transposed: bool) -> Tensor:
    """Return y + A (B x), or y + (x A) B, in y's memory where that is contiguous.

    Everything is taken in y's type and place: an autocast, or accelerate, has moved x there too.
    """
    if not transposed:
        a, b = b.mT, a.mT
    x, a, b = (part.to(y) for part in (x, a, b))
    y = y.contiguous()
    y.view(-1, y.shape[-1]).addmm_(x.reshape(-1, x.shape[-1]) @ a, b)
    return y
