"""The bench's baseline is the published procedure: its passes, its walk, and steps that agree with
the library's."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scripts.bench.published import PUBLISHED
from scripts.bench.step import AT_THETA, EACH, METHODS, OURS, published_like, traffic

Loss = Callable[[], float]


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1)).double()


@pytest.fixture
def loss(net: nn.Module) -> Loss:
    x = torch.randn(32, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return torch.no_grad()(lambda: float((net(x) - x.sum(1, keepdim=True)).square().mean()))


def built(name: str, params: Sequence[Tensor], lr: float) -> Any:
    method = PUBLISHED[name](params)
    method.lr, method.eps = lr, 1e-4
    return method


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_step_takes_its_forward_passes_and_a_rate_of_zero_brings_theta_home(
    name: str, net: nn.Module, loss: Loss
):
    params, calls = list(net.parameters()), []
    start = [p.detach().clone() for p in params]
    method = built(name, params, 0.0)
    for _ in range(3):
        method.step(lambda: calls.append(1) or loss())
    assert len(calls) == 3 * method.num_forwards
    assert all(torch.allclose(p, q, rtol=0, atol=1e-14) for p, q in zip(params, start, strict=True))


@pytest.mark.parametrize("name", PUBLISHED)
def test_it_learns(name: str, net: nn.Module, loss: Loss):
    method, before = built(name, list(net.parameters()), 2e-3), loss()
    for _ in range(30):
        for _ in range(10):
            method.step(loss)
        if loss() < 0.7 * before:
            return
    pytest.fail(f"from {before} to {loss()} in 300 steps")


@pytest.mark.parametrize("name", METHODS)
def test_both_sides_of_a_ratio_take_the_same_losses(name: str, net: nn.Module, loss: Loss):
    ours = METHODS[name](net.parameters(), lr=1e-3, module=net)

    def each(count: int = 1) -> Any:
        x = torch.ones(4 * count, 8, dtype=torch.float64)
        closure: Any = partial(lambda: net(x).square().mean(dim=1))
        closure.repeated = each
        return closure

    ours.step(each() if name in EACH else loss)
    assert ours.num_forwards == published_like(name).num_forwards


def test_bytes_are_a_read_and_a_write_for_each_perturbed_pass_and_the_update(net: nn.Module):
    params = list(net.parameters())
    size = 8 * sum(p.numel() for p in params)
    assert {name: traffic(params, name) / size for name in PUBLISHED} == {
        name: 2 * (passes + 1)
        for name, passes in {
            "BSZO": 2,
            "BSZO-B": 3,
            "MeZO": 2,
            "MeZO-Adam": 2,
            "HiZOO": 2,
            "LOZO": 2,
        }.items()
    }
    assert {traffic(params, name) / size for name in EACH} == {2}  # the update
    assert AT_THETA.keys() <= OURS.keys() == PUBLISHED.keys()
