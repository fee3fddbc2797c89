"""Small networks, each with one habit that an engine may trip over."""

import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

WIDTH = 6
IDS = torch.tensor([[3, 0, 3, 7], [1, 1, 0, 8]])  # repeated ids, and the padding row 0


class Nested(nn.Module):
    """Modules inside modules, a normalisation, a convolution, and a parameter of the outermost
    module."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(WIDTH, 9), nn.Tanh(), nn.Sequential(nn.LayerNorm(9), nn.Linear(9, WIDTH))
        )
        self.conv = nn.Conv1d(4, 4, 3, padding=1)
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * self.conv(self.body(x) * self.gain)


class Lookup(nn.Module):
    """An embedding with a padding row, called by keyword, and a module that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(10, WIDTH, padding_idx=0)
        self.places = nn.Embedding(4, WIDTH)
        self.mix = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        h = self.words(input=IDS) + self.places(torch.arange(4)) + x
        return self.mix(torch.tanh(self.mix(h)))


class Tied(nn.Module):
    """Output weights are the embedding's."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(10, WIDTH)
        self.head = nn.Linear(WIDTH, 10, bias=False)
        self.head.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.words(IDS) + x))


class TiedToItself(nn.Module):
    """The outermost module owns the weights of the embedding that it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(10, WIDTH)
        self.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.tanh(self.words(IDS) + x), self.weight)


def double(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return 2 * output


class HookedLookup(nn.Module):
    """A user's hook doubles what the embedding returns, another one shifts the ids it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(10, WIDTH)
        self.words.register_forward_hook(double)
        self.words.register_forward_pre_hook(lambda module, args: (args[0] + 1,))

    def forward(self, x: Tensor) -> Tensor:
        return self.words(IDS) * x


class Container(nn.Module):
    """Parameters owned by containers, which never run."""

    def __init__(self) -> None:
        super().__init__()
        self.prompts = nn.ParameterList([nn.Parameter(torch.randn(WIDTH)) for _ in range(2)])
        self.scales = nn.ParameterDict({"a": nn.Parameter(torch.randn(WIDTH))})
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x * self.scales["a"] + self.prompts[0] - self.prompts[1].square())


class Functional(nn.Module):
    """A weight used by a module that does not own it, while its owner runs elsewhere too."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return (
            torch.tanh(F.linear(self.one(x), self.other.weight.T) + self.other(x)) + self.one.bias
        )


class Parametrized(nn.Module):
    """Weights that are computed from others: weight normalisation, new and old."""

    def __init__(self) -> None:
        super().__init__()
        self.new = parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH))
        self.old = nn.utils.weight_norm(nn.Linear(WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return self.old(torch.tanh(self.new(x)))


class Attention(nn.Module):
    """torch's attention reads its output layer's weight itself."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
        self.recurrent = nn.GRU(WIDTH, WIDTH, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.recurrent(self.attention(x, x, x, need_weights=False)[0])[0]


class Token(nn.Module):
    """Hands out a view of its own weight, as class tokens and position tables do."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(WIDTH))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"token": self.token[None].expand_as(x)}


class Views(nn.Module):
    """Two views that must both outlive their modules, whose weights are of one size."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = Token(), Token()

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.one(x)["token"], self.other(x)["token"]
        return x * first + 2 * second


class BoxedToken(Token):
    def forward(self, x: Tensor) -> Any:
        return SimpleNamespace(**super().forward(x))


class Boxed(nn.Module):
    """As views, but in objects of one's own."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = BoxedToken(), BoxedToken()

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.one(x), self.other(x)
        return x * first.token + 2 * second.token


class Reader(nn.Module):
    """Scalars that are read as Python numbers, by a module that does not own them."""

    def __init__(self) -> None:
        super().__init__()
        self.scales = nn.ModuleList([nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)])
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x * self.scales[0].weight.item()) + float(self.scales[1].weight)  # type: ignore[arg-type]


class Pruned(nn.Module):
    """An embedding whose one parameter is not the weight that it looks up."""

    def __init__(self) -> None:
        super().__init__()
        self.words = prune.random_unstructured(nn.Embedding(10, WIDTH), "weight", amount=0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.words(IDS) * x


def scripted() -> nn.Module:
    """A graph that calls no hooks of its parts."""
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        return torch.jit.script(
            nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH))
        )


def transformer() -> nn.Module:
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 8, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


CASES: dict[str, Callable[[], nn.Module]] = {
    "nested": Nested,
    "lookup": Lookup,
    "tied": Tied,
    "tied-to-itself": TiedToItself,
    "hooked-lookup": HookedLookup,
    "container": Container,
    "functional": Functional,
    "parametrized": Parametrized,
    "attention": Attention,
    "transformer": transformer,
    "views": Views,
    "boxed": Boxed,
    "reader": Reader,
    "pruned": Pruned,
    "scripted": scripted,
}
NEEDS_A_SECOND_PASS = {"container", "functional", "attention", "transformer", "reader"}
