"""Updates piece by piece are those of whole tensors, bit for bit."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bszo import HiZOO, MeZOAdam, MeZOAdamHistory
from bszo.optim import pieces as module
from bszo.optim.pieces import pieces


@pytest.mark.parametrize("shape", [(0,), (), (7,), (5, 13), (64, 3, 3)])
def test_every_element_is_in_one_piece(shape: tuple[int, ...], monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "EACH", 16)
    a, b = torch.rand(shape), torch.rand(shape)
    together = list(pieces(a, b))
    assert all(x.numel() == y.numel() <= 16 * torch.get_num_threads() for x, y in together)
    expected = a + b
    for x, y in together:
        x.add_(y)
    assert torch.equal(a, expected)


def test_tensors_that_are_not_contiguous_are_one_piece() -> None:
    a, b = torch.rand(4, 6).T, torch.rand(6, 4)
    ((x, y),) = pieces(a, b)
    assert x is a and y is b


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("make", "more"),
    [
        (MeZOAdam, {}),
        (MeZOAdam, {"second": "momentum", "state_dtype": "parameter"}),
        (MeZOAdamHistory, {"window": 2}),
        (HiZOO, {}),
        (HiZOO, {"state_dtype": "parameter"}),
    ],
)
def test_steps_are_the_same_in_pieces(
    make: Any, more: dict[str, Any], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[list[Tensor]] = []
    for each in (1 << 15, 64):
        monkeypatch.setattr(module, "EACH", each)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = nn.Sequential(nn.Linear(30, 41), nn.Tanh(), nn.Linear(41, 7)).to(dtype)
            x = torch.randn(9, 30).to(dtype)
        optimizer = make(net.parameters(), lr=0.01, eps=1e-2, module=net, **more)
        for _ in range(4):
            optimizer.step(lambda net=net, x=x: net(x).float().square().mean())
        found.append([p.detach().clone() for p in net.parameters()])
    assert all(torch.equal(p, q) for p, q in zip(*found, strict=True))
