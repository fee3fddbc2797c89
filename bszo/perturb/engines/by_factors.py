"""ByFactors: the exact engine for directions of low rank, for which a linear layer's
perturbed weight is not made."""

import math
from collections.abc import Callable, Iterator, Set
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bszo.errors import OptimError
from bszo.perturb.directions.base import Directions
from bszo.perturb.engines.base import Engine
from bszo.perturb.engines.hooks import Hooks, is_differentiated, is_plain, linear_layers, owners
from bszo.perturb.engines.layers import Layers, is_transposed, may_be_read, without_autocast
from bszo.perturb.engines.streaming import Streaming
from bszo.perturb.noise import Terms


class ByFactors(Engine):
    """Where z = A B is thin, a linear layer adds its part to the layer's answer,

        W x + b   + sum_i c_i A_i (B_i x)
        x W + b   + sum_i c_i (x A_i) B_i      of GPT-2's Conv1D, x a row

    and everything else is shown as `Streaming` shows it: embeddings, vectors, weights that have no
    thin factors, that something else than linear layers uses too, or that a hook or a formula of a
    layer's own may read.

    W is only read. In 16 bits c z is not lost against a large W, for it meets the answer and not W,
    and the answer's rounding alone; so losses differ in their last digits from those of engines
    that make W + c z. A position costs k r (m + n) multiplications more than its m n, at k
    directions of rank r. Extra memory: k r (m + n) of the layer that runs.

    Args:
        params: all parameters, in the optimizer's order.
        module: the module that the closure runs.
    """

    def __init__(self, params: list[Tensor], module: nn.Module) -> None:
        self.params = params
        self.rest = Streaming(params, module)
        self.doubts = self.rest.doubts
        self.layers = Layers(params, module)
        self.owners = owners(module, self.layers.index)
        self.linear = linear_layers(module, self.layers.index, is_transposed)

    @property
    def ready(self) -> bool:
        return self.rest.ready

    @contextmanager
    def at(self, directions: Directions, terms: Terms) -> Iterator[None]:
        shown = {
            i
            for i in self._shown_by_layers()
            if directions.own(i, terms) and directions.has_factors(i)
        }
        if terms and not shown:
            raise OptimError(
                "perturbation='factored': no linear layer that runs as a module has a direction of"
                " two thin factors, as those of LOZO and SubZero are where they are not masked or"
                " cut into blocks; exact is valid"
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

    def _shown_by_layers(self) -> set[int]:
        """The numbers of the weights that nothing but plain linear layers owns. It is asked at
        every pass, for a hook or another forward may come later."""
        plain = {
            m
            for m in self.linear
            if self.layers.is_plain(m) and not may_be_read(m) and _is_linear_or_gpt2_s(m)
        }
        elsewhere = {
            i
            for m, owned in self.owners.items()
            for i in owned
            if m not in plain or self.linear[m] != i
        }
        return set(self.linear.values()) - elsewhere - set(self.rest.copies.indices)

    def _leave(
        self, directions: Directions, terms: Terms, shown: Set[int]
    ) -> Callable[..., Tensor | None]:
        """What is done after any module has run."""

        def leave(module: nn.Module, args: Any, kwargs: Any, y: Any) -> Tensor | None:
            if (i := self.linear.get(module)) is None or i not in shown:
                return None
            if module._parameters["weight"] is not self.params[i]:
                return None  # it ran with a weight of someone else's (torch.func.functional_call)
            x = next(iter((*args, *kwargs.values())))
            if is_differentiated() or may_be_read(module) or not (is_plain(x) and is_plain(y)):
                self.rest.missed.add(i)  # the pass is taken again, with a copy of this weight
                return None
            with self.rest.unwatched(), without_autocast(y):
                left, right = self._factors(directions, i, directions.own(i, terms))
                if is_transposed(module):
                    return _with_change(x, y, left, right)
                return _with_change(x, y, right.mT, left.mT)

        return leave

    def _factors(self, directions: Directions, i: int, terms: Terms) -> tuple[Tensor, Tensor]:
        """Two factors of sum_i c_i A_i B_i, which share c alike: with all of it on the second, the
        inner product of x and the first may pass fp16's range."""
        left, right = [], []
        for seed, c in terms.items():
            pair = directions.factors(seed, i)
            assert pair is not None, "has_factors said so"
            left.append(math.copysign(math.sqrt(abs(c)), c) * pair[0])
            right.append(math.sqrt(abs(c)) * pair[1])
        return torch.cat(left, dim=-1), torch.cat(right, dim=-2)


def _nothing(*_: Any) -> None:
    """What is done before a module runs."""


def _is_linear_or_gpt2_s(module: nn.Module) -> bool:
    """Whether a layer with a transposed weight is transformers' own: another may call itself so and
    compute something else."""
    if not is_transposed(module):
        return True
    return type(module).forward.__module__ == "transformers.pytorch_utils"


def _with_change(x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return y + (x a) b for the last axes of x and y, in y's memory where that is contiguous.

    Everything is taken in y's type and place: an autocast, or accelerate, has moved x there too.
    """
    x, a, b = (part.to(y) for part in (x, a, b))
    y = y.contiguous()
    positions = y.shape[:-1].numel()
    y.view(positions, y.shape[-1]).addmm_(x.reshape(positions, x.shape[-1]) @ a, b)
    return y
