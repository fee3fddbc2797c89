"""On a GPU every method takes the steps that it takes on a CPU, to the rounding of another order of
summation."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from bszo import AGZO, BSZO, LOREN, LOZO, ZOLDSD, ConMeZO, HiZOO, MeZO, MeZOAdam

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a GPU: torch.cuda finds none"
)

METHODS: dict[str, Callable[..., Any]] = {
    "BSZO": lambda p, m: BSZO(
        p, lr=1e-3, eps=1e-2, prior_var=1.0, noise_var=1.0, weight_decay=0.1, module=m
    ),
    "MeZO": lambda p, m: MeZO(p, lr=1e-3, eps=1e-2, weight_decay=0.1, module=m),
    "MeZOAdam": lambda p, m: MeZOAdam(p, lr=1e-3, eps=1e-2, weight_decay=0.1, module=m),
    "HiZOO": lambda p, m: HiZOO(p, lr=1e-3, eps=1e-2, smoothing=1e-4, weight_decay=0.1, module=m),
    "AGZO": lambda p, m: AGZO(p, lr=1e-3, eps=1e-2, weight_decay=0.1, module=m),
    "ConMeZO": lambda p, m: ConMeZO(p, lr=1e-3, eps=1e-2, weight_decay=0.1, module=m),
    "LOREN": lambda p, m: LOREN(p, lr=1e-3, eps=1e-2, weight_decay=0.1, module=m),
    "ZOLDSD": lambda p, m: ZOLDSD(p, lr=1e-3, eps=1e-2, weight_decay=0.1, module=m),
    "LOZO": lambda p, m: LOZO(p, lr=1e-3, eps=1e-2, interval=2, weight_decay=0.1, module=m),
}


@pytest.mark.parametrize("name", METHODS)
def test_steps_on_both_devices_agree(name: str) -> None:
    """Five steps in fp32 with losses that the weights' sum decides: directions, moments and
    curvature are the same."""
    after = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        module = nn.Sequential(
            nn.Linear(33, 65), nn.Tanh(), nn.Linear(65, 7, bias=False), nn.LayerNorm(7)
        ).to(device)
        x = torch.randn(16, 33, generator=torch.Generator().manual_seed(1)).to(device)
        optimizer = METHODS[name](module.parameters(), module)
        for _ in range(5):
            optimizer.step(
                lambda m=module, x=x: m(x).double().square().mean() + m(x)[:, 0].double().mean()
            )
        after.append([p.detach().cpu() for p in module.parameters()])
    for here, there in zip(*after, strict=True):
        torch.testing.assert_close(there, here, rtol=2e-3, atol=2e-4)
