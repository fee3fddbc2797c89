"""Forward mode leaves the module as it was, whatever names its parameters have."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bszo import ForwardGrad
from bszo.perturb import Gaussian

X = torch.linspace(-1, 1, 48).view(2, 4, 6)


class TwoNames(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)
        self.same = self.layer

    def forward(self, x: Tensor) -> Tensor:
        return self.same(torch.tanh(self.layer(x)))


class Tied(nn.Module):
    """A weight of two modules, one of which has two names; and one under two names in a module."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6)
        self.two.weight = self.one.weight
        self.again = self.two
        self.two.register_parameter("twin", self.two.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.again(torch.tanh(self.one(self.two(x)))) + self.two.twin


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x)[0]


MODULES: dict[str, Any] = {
    "two names": TwoNames,
    "tied": Tied,
    "attention": Attention,
    "encoder": lambda: nn.TransformerEncoderLayer(6, 2, 12, batch_first=True),
}


@pytest.mark.parametrize("name", MODULES)
def test_the_slope_is_backpropagations_and_the_parameters_stay(name: str) -> None:
    torch.manual_seed(0)
    module = MODULES[name]().eval()
    named = dict(module.named_parameters(remove_duplicate=False))
    params: list[Tensor] = list(module.parameters())
    optimizer = ForwardGrad(params, lr=1e-2, module=module, seed=3)
    fast = torch.backends.mha.get_fastpath_enabled()
    for _ in range(2):
        (seed,) = optimizer.direction_seeds(1)
        z = Gaussian(params)(params, seed)
        module.zero_grad()
        module(X).square().mean().backward()
        slope = float(sum((p.grad * v).sum() for p, v in zip(params, z, strict=True)))  # type: ignore[operator]
        before = [p.detach().clone() for p in params]
        optimizer.step(lambda: module(X).square().mean())
        assert optimizer.last is not None
        assert optimizer.last.observations[0] == pytest.approx(slope, rel=1e-4)
        after = dict(module.named_parameters(remove_duplicate=False))
        assert after.keys() == named.keys()
        assert all(after[key] is p and type(p) is nn.Parameter for key, p in named.items())
        for p, old, v in zip(params, before, z, strict=True):
            torch.testing.assert_close(p.detach(), old - 1e-2 * slope * v, rtol=1e-4, atol=1e-5)
    assert torch.backends.mha.get_fastpath_enabled() == fast
