"""Layers: the kinds of module whose answer at parameters of each example's own follows from their
answer at shared ones."""

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from bszo.errors import OptimError
from bszo.perturb import noise
from bszo.perturb.engines.hooks import owners

# linear  W x + b        nn.Linear, and one that answers with some of its rows alone; x W + b of
#                        transformers' Conv1D, whose weight is transposed
# lookup  W[id]          nn.Embedding, and its subclasses that choose the id
# norm    w * x' + b     nn.LayerNorm, nn.RMSNorm and those of models; x' is x, normalised
Kind = Literal["linear", "lookup", "norm"]


@dataclass(frozen=True)
class Layer:
    """A module's kind, the numbers of its weight and its bias, None where it has none that trains,
    and whether a linear layer's weight is (inputs, outputs)."""

    kind: Kind
    weight: int | None
    bias: int | None
    transposed: bool = False

    @property
    def numbers(self) -> tuple[int, ...]:
        return tuple(i for i in (self.weight, self.bias) if i is not None)


def layers_of(module: nn.Module, index: Mapping[int, int]) -> dict[nn.Module, Layer]:
    """Return the modules that are of a known kind and call hooks. Whether they answer so is seen
    when they run.

    Args:
        module: the module, with all inside it.
        index: {id of a parameter: its number}.
    """
    found = {m: _layer_of(m, index) for m in owners(module, index)}
    return {m: layer for m, layer in found.items() if layer is not None}


def words_of(module: nn.Module) -> Tensor | None:
    """Return the numbers of the rows that a narrowed output layer answers with, where a module is
    one: it says so in its attributes `words`, `weight` and `bias` (`bszo.models.head`)."""
    words = vars(module).get("words")
    known = isinstance(words, Tensor) and isinstance(getattr(module, "weight", None), Tensor)
    return words if known else None


def _layer_of(module: nn.Module, index: Mapping[int, int]) -> Layer | None:
    kind: Kind
    if isinstance(module, nn.Linear) or is_transposed(module):
        kind = "linear"
    elif isinstance(module, nn.Embedding):
        kind = "lookup"
    elif _may_be_norm(module):
        kind = "norm"
    else:
        return None
    weight, bias = (index.get(id(module._parameters.get(name))) for name in ("weight", "bias"))
    return Layer(kind, weight, bias, is_transposed(module))


def is_transposed(module: nn.Module) -> bool:
    """Whether a module calls itself the layer that answers x W + b with a weight (inputs, outputs):
    transformers' Conv1D, of GPT-2. Whether it does is seen when it runs (`Layers.require_x_w`)."""
    own = module._parameters
    weight, bias = own.get("weight"), own.get("bias")
    return (
        not isinstance(module, nn.Linear)
        and any(cls.__name__ == "Conv1D" for cls in type(module).__mro__)
        and own.keys() <= {"weight", "bias"}
        and weight is not None
        and weight.ndim == 2
        and getattr(module, "nf", None) == weight.shape[1]
        and (bias is None or bias.shape == weight.shape[1:])
        and not module._modules
    )


def may_be_read(module: nn.Module) -> bool:
    """Whether a hook that is not this library's runs before the module, and may read its weight."""
    return any(
        not str(getattr(hook, "__module__", "")).startswith("bszo.")
        for hook in module._forward_pre_hooks.values()
    )


def _may_be_norm(module: nn.Module) -> bool:
    """Whether a module owns a vector called weight, perhaps one called bias, and nothing else. A
    norm over the batch has statistics of its own, and is none."""
    own = module._parameters
    weight, bias = own.get("weight"), own.get("bias")
    return (
        not isinstance(module, _NormBase)
        and own.keys() <= {"weight", "bias"}
        and weight is not None
        and weight.ndim == 1
        and (bias is None or bias.shape == weight.shape)
        and not module._modules
    )


class Layers:
    """The layers of one module, with their names, and what they answer.

    Args:
        params: all parameters, in the optimizer's order.
        module: the module that the closure runs.
    """

    def __init__(self, params: Sequence[Tensor], module: nn.Module) -> None:
        self.params = params
        self.index = {id(p): i for i, p in enumerate(params)}
        self.known = layers_of(module, self.index)
        self.names = {m: name or type(m).__name__ for name, m in module.named_modules()}
        self.parameter_names = {
            self.index[id(p)]: name for name, p in module.named_parameters() if id(p) in self.index
        }
        self.words = getattr(module, "get_input_embeddings", lambda: None)()
        self._units: dict[nn.Module, float] = {}  # the weight at which a norm answers x'
        self._seen: set[nn.Module] = set()  # the layers that have answered x W + b

    def of(self, module: nn.Module) -> Layer | None:
        """Return the layer that a module is; a narrowed output layer is made for one pass."""
        if (layer := self.known.get(module)) is None and words_of(module) is not None:
            weight, bias = (self.index.get(id(p)) for p in (module.weight, module.bias))
            return Layer("linear", weight, bias)
        return layer

    def name(self, module: nn.Module) -> str:
        return self.names.get(module, type(module).__name__)

    def reads_words(self, module: nn.Module) -> bool:
        """Whether a lookup is that of the model's input, whose ids are the batch's own."""
        return module is self.words

    def require_plain(self, moved: Set[int]) -> None:
        """OptimError for a layer that moves and is not plain, or may be read before it runs."""
        for module, layer in self.known.items():
            if moved.isdisjoint(layer.numbers):
                continue
            if not self.is_plain(module):
                raise self._refusal(module, layer)
            if may_be_read(module):
                raise OptimError(
                    f"{self.name(module)}: a forward pre-hook may read its weight, which has no"
                    " example's own direction; without the hook, or frozen, it is valid"
                )

    def is_plain(self, module: nn.Module) -> bool:
        """Whether a layer may be asked for its answer at other weights.

        A linear layer must run nn.Linear's own forward, for a subclass may scale, mask or round W
        first, and an embedding must have no max_norm, with which it writes to its weight; other
        formulas are tested when they run. Nothing may have replaced `forward` in the object, but
        for a hook of accelerate's that only moves tensors, on a linear layer or plain embedding.
        """
        layer = self.known[module]
        wrapped = "forward" in vars(module)
        moved = wrapped and _only_moves(getattr(module, "_hf_hook", None))
        if layer.transposed:  # what another class answers is seen when it runs
            return moved or not wrapped
        if layer.kind == "linear":
            return type(module).forward is nn.Linear.forward and (moved or not wrapped)
        if isinstance(module, nn.Embedding):
            return module.max_norm is None and (
                not wrapped or (moved and type(module).forward is nn.Embedding.forward)
            )
        return not wrapped

    def require_x_w(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """OptimError for a layer with a transposed weight whose answer is not x W + b, up to
        rounding. It is asked at a random x, W and b when it first runs, outside an autocast, which
        remembers weights."""
        if len(args) + len(kwargs) != 1:  # there is more than x that it may heed
            raise self._refusal(module, self.known[module])
        if module in self._seen:
            return
        weight, bias = (module._parameters.get(name) for name in ("weight", "bias"))
        assert weight is not None
        inputs, outputs = weight.shape

        def random(seed: int, *shape: int) -> Tensor:
            drawn = noise.values(torch.Size(shape), 0, seed, device=weight.device)
            return drawn.to(weight.dtype)

        x, values = random(1, 2, 3, inputs), {"weight": random(2, inputs, outputs) / inputs**0.5}
        expected = x.double() @ values["weight"].double()
        if bias is not None:
            values["bias"] = random(3, outputs).to(bias.dtype)
            expected += values["bias"].double()
        with _holding(module, **values):
            found = type(module).forward(module, x)
        shaped = isinstance(found, Tensor) and found.shape == expected.shape
        if not shaped or not _is_close(found, expected, x, weight):
            raise self._refusal(module, self.known[module])
        self._seen.add(module)

    def rows_read(self, module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor:
        """Return which rows of its weight a lookup has answered with, in the shape of its answer
        without the last axis.

        `nn.Embedding` was given them. A subclass that chooses them itself, as OPT's does for
        positions, runs once more with a weight (rows, 1) whose row i holds the number i.

        Raises:
            OptimError: it has answered with something else than rows.
        """
        if type(module).forward is nn.Embedding.forward:
            ids = args[0] if args else kwargs["input"]
            return ids.to(output.device)
        weight = module._parameters["weight"]
        assert weight is not None
        numbers = torch.arange(len(weight), dtype=torch.float64, device=weight.device)[:, None]
        with _holding(module, weight=numbers):
            found = type(module).forward(module, *args, **kwargs)
        if found.shape == (*output.shape[:-1], 1):
            ids = found[..., 0].round().long().clamp(0, len(weight) - 1)
            if torch.equal(weight.data[ids], output):
                return ids
        raise self._refusal(module, self.known[module])

    def normalised(self, module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor:
        """Return x' of a norm that has answered w * x' + b, in the shape of its answer.

        It is read off the module, which runs again with a weight of ones, or of zeros where it adds
        1 to its weight, and without bias. When it first runs, it is seen at a random weight and
        bias that its answer is such a product and sum.

        Raises:
            OptimError: its answer is something else.
        """
        weight, bias = (module._parameters.get(name) for name in ("weight", "bias"))
        assert weight is not None

        def answer(w: float | Tensor, b: float | Tensor = 0.0) -> Tensor:
            values = {"weight": torch.ones_like(weight).mul_(w)}
            if bias is not None:
                values["bias"] = torch.ones_like(bias).mul_(b)
            with _holding(module, **values):
                return type(module).forward(module, *args, **kwargs)

        if module in self._units:
            return answer(self._units[module])
        if output.shape[-1:] == weight.shape:
            for unit in (1.0, 0.0):
                if answer(unit - 1.0).any():
                    continue
                x = answer(unit)
                if not _is_affine(answer, weight, unit, x, bias is not None):
                    break
                if x.any():  # else nothing was seen
                    self._units[module] = unit
                return x
        raise self._refusal(module, self.known[module])

    def _refusal(self, module: nn.Module, layer: Layer) -> OptimError:
        formulas = {"linear": "W x + b", "lookup": "rows of W", "norm": "w * x' + b"}
        formula = "x W + b" if layer.transposed else formulas[layer.kind]
        return OptimError(
            f"{self.name(module)}: {type(module).__name__} computes its answer in a way of its own,"
            f" which need not be {formula}; freezing its weight is valid"
        )


def _only_moves(hook: Any) -> bool:
    """Whether a hook of accelerate's does nothing but place tensors."""
    if type(hook).__name__ == "SequentialHook":
        return all(map(_only_moves, hook.hooks))
    return type(hook).__name__ in ("AlignDevicesHook", "CpuOffload")


def without_autocast(y: Tensor) -> AbstractContextManager[Any]:
    """While active, products on y's device are made in their own type."""
    kind = y.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


@contextmanager
def _holding(module: nn.Module, **values: Tensor) -> Iterator[None]:
    """While active, parameters of a module hold other values; their own are laid aside, and not
    written."""
    params = {name: p for name in values if (p := module._parameters[name]) is not None}
    aside = {name: p.data for name, p in params.items()}
    try:
        for name, p in params.items():
            p.data = values[name]
        yield
    finally:
        for name, p in params.items():
            p.data = aside[name]


def _is_affine(
    answer: Callable[..., Tensor], weight: Tensor, unit: float, x: Tensor, biased: bool
) -> bool:
    """Whether the answer at a random weight w, where `unit` stands for 1, and a random bias b is
    w * x + b, up to rounding."""
    w, b = (noise.values(weight.shape, 0, seed, device=x.device) for seed in (1, 2))
    found = answer(w + (unit - 1.0), b)
    expected = w.double() * x.double() + (b.double() if biased else 0.0)
    return _is_close(found, expected, x, weight)


def _is_close(found: Tensor, expected: Tensor, *parts: Tensor) -> bool:
    """Whether an answer is the expected one, up to the rounding of its type and its parts'."""
    slack = max(1e-3, *(4 * torch.finfo(part.dtype).eps for part in (found, *parts)))
    return bool((found.double() - expected).norm() <= slack * expected.norm())
