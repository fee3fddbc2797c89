"""ConMeZO against a dense reference; its cone; its limit at a right angle."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from bszo import ConMeZO, MeZO
from bszo.perturb import Cone, Gaussian, mix64, noise
from tests.optim.test_reference import SHAPES, Loss, N, flat, follow, make_loss, parameters, spsa

EPS, BETA, ANGLE = 1e-3, 0.7, 1.1


@pytest.mark.parametrize(("start", "warmup"), [("zero", "none"), ("noise", "as-run")])
@pytest.mark.parametrize("q", [1, 2])
def test_conmezo(start: Any, warmup: Any, q: int) -> None:
    m = torch.zeros(N, dtype=torch.float64)
    if start == "noise":
        m = flat([noise.values(torch.Size(s), i, mix64(9, 0, -6)) for i, s in enumerate(SHAPES)])
    beta = BETA if warmup == "none" else 0.1  # of the first 200 steps

    def reference(theta: Tensor, loss: Loss, z: list[Tensor]) -> Tensor:
        nonlocal m
        unit = m / m.norm() if m.any() else None
        cone = [
            z_i if unit is None else math.cos(ANGLE) * math.sqrt(N) * unit + math.sin(ANGLE) * z_i
            for z_i in z
        ]
        g = sum(
            (spsa(theta, loss, one, EPS) * one for one in cone), torch.zeros(N, dtype=torch.float64)
        )
        m = beta * m + (1 - beta) * g / q
        return theta - 1e-3 * (g / q + 0.4 * theta)

    optimizer, params = follow(
        ConMeZO,
        q,
        reference,
        lr=1e-3,
        eps=EPS,
        num_directions=q,
        angle=ANGLE,
        momentum=BETA,
        start=start,
        warmup=warmup,
        weight_decay=0.4,
        seed=9,
        state_dtype="parameter",
    )
    found = flat([optimizer.state[p]["momentum"] for p in params])
    torch.testing.assert_close(found, m, rtol=1e-8, atol=1e-9)


def test_the_warm_up_as_run() -> None:
    """0.1 until step 200, b from step 2000 on, and halfway down its curve what its formula says."""
    optimizer = ConMeZO([torch.zeros(2, requires_grad=True)], momentum=0.99, warmup="as-run")
    found = {}
    for step in (0, 200, 1100, 2000, 2001):
        optimizer.num_steps = step
        found[step] = optimizer._decay(0.99)
    assert found[0] == found[200] == pytest.approx(0.1)
    assert found[1100] == pytest.approx(0.99 - 0.89 / (1 + 8 * 0.5**1.8) ** 3)
    assert found[2000] == pytest.approx(0.99 - 0.89 / 9**3) and found[2001] == 0.99


def test_directions_lie_at_the_angle_and_are_as_long_as_gaussians() -> None:
    params = [torch.empty(300, 50), torch.empty(5000)]
    m = [
        torch.randn(p.shape, generator=torch.Generator().manual_seed(i))
        for i, p in enumerate(params)
    ]
    z = flat(Cone(Gaussian(params), m, 1.2)(params, 3))
    along = float(z @ flat(m) / (z.norm() * flat(m).norm()))
    assert along == pytest.approx(math.cos(1.2), abs=4 / math.sqrt(20_000))
    assert float(z.norm()) == pytest.approx(math.sqrt(20_000), rel=0.03)


def test_a_right_angle_is_mezo() -> None:
    cases: list[tuple[Any, dict[str, Any]]] = [(ConMeZO, {"angle": math.pi / 2}), (MeZO, {})]
    ends = []
    for make, more in cases:
        params, loss = parameters(), make_loss()
        optimizer = make(params, lr=1e-3, eps=EPS, seed=4, **more)
        for _ in range(5):
            optimizer.step(lambda params=params, loss=loss: loss(flat(params)))
        ends.append(flat(params))
    torch.testing.assert_close(*ends, rtol=1e-9, atol=1e-12)
