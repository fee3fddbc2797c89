"""Every network of `networks` as a case: dtype -> (module, closure)."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.perturb.networks import CASES, NEEDS_A_SECOND_PASS, WIDTH

Case = Callable[[torch.dtype], tuple[nn.Module, Callable[[], Tensor]]]


def build(name: str, dtype: torch.dtype) -> tuple[nn.Module, Callable[[], Tensor]]:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        module = CASES[name]()
        with torch.no_grad():
            for p in module.parameters():
                p.add_(0.3 * torch.randn_like(p))
        x = torch.randn(2, 4, WIDTH, dtype=torch.float64).to(dtype)
    module = module.to(dtype).eval()
    return module, lambda: module(x).double().square().mean()


@pytest.fixture(params=list(CASES))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def case(name: str) -> Case:
    return lambda dtype: build(name, dtype)


@pytest.fixture
def make() -> Callable[[str, torch.dtype], tuple[nn.Module, Callable[[], Tensor]]]:
    return build


@pytest.fixture
def second_pass(name: str) -> int:
    return int(name in NEEDS_A_SECOND_PASS)


@pytest.fixture(params=["small", "large"])
def size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both halves of Gaussian: z kept for a step, and z made where it is used."""
    if request.param == "large":
        monkeypatch.setattr("bszo.perturb.directions.gaussian.KEEP_BELOW", 0)
    return request.param
