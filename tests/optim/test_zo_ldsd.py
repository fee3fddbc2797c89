"""ZO-LDSD against a dense reference, and where its mean goes: along the gradient, or nowhere."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from bszo import ZOLDSD
from tests.optim.test_reference import Loss, N, flat, follow, make_loss, parameters, spsa

EPS, SPREAD, RATE = 1e-2, 0.7, 0.5


@pytest.mark.parametrize("plus_side", ["kept", "again"])
def test_zo_ldsd(plus_side: Any) -> None:
    mu = torch.zeros(N, dtype=torch.float64)

    def reference(theta: Tensor, loss: Loss, z: list[Tensor]) -> Tensor:
        nonlocal mu
        v = [mu + SPREAD * z_i for z_i in z]
        f = torch.tensor([loss(theta + EPS * v_i) for v_i in v], dtype=torch.float64)
        best = v[int(f.argmin())]
        f_plus = float(f.min()) if plus_side == "kept" else loss(theta + EPS * best)
        g = (f_plus - loss(theta - EPS * best)) / (2 * EPS)
        weights = (len(z) * f - f.sum()) / (len(z) - 1)
        step = sum(a * (v_i - mu) / SPREAD**2 for a, v_i in zip(weights, v, strict=True))
        mu = mu - RATE * step / len(z)
        return theta - 1e-3 * (g * best + 0.4 * theta)

    optimizer, params = follow(
        ZOLDSD,
        3,
        reference,
        lr=1e-3,
        eps=EPS,
        num_directions=3,
        spread=SPREAD,
        mean_lr=RATE,
        plus_side=plus_side,
        weight_decay=0.4,
        state_dtype="parameter",
    )
    found = flat([optimizer.state[p]["mean"] for p in params])
    torch.testing.assert_close(found, mu, rtol=1e-8, atol=1e-9)
    assert float(mu.abs().max()) > 0.1, "mu must have moved for this to mean something"


def test_the_mean_follows_the_gradient_along_evaluated_noise_and_nothing_along_fresh() -> None:
    """A linear loss and lr 0: the steps of mu are independent, mean_lr eps grad L on average.

    Along fresh noise a step's part along grad L has mean zero, and the standard deviation mean_lr
    sd(F) / sqrt(K - 1), which is mean_lr eps |grad L| / sqrt(K - 1).
    """
    num_steps, k, eps, rate = 2000, 5, 1e-3, 0.01
    slope = torch.randn(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    share = {}
    for mean_noise in ("evaluated", "fresh"):
        theta = torch.nn.Parameter(torch.zeros(40, dtype=torch.float64))
        optimizer = ZOLDSD(
            [theta],
            lr=0.0,
            eps=eps,
            num_directions=k,
            mean_lr=rate,
            mean_noise=mean_noise,  # type: ignore[arg-type]
            state_dtype="parameter",
        )
        for _ in range(num_steps):
            optimizer.step(lambda theta=theta: slope @ theta)
        mu = optimizer.state[theta]["mean"]
        share[mean_noise] = float(-mu @ slope / (slope @ slope)) / (num_steps * rate * eps)
    deviation = 1 / math.sqrt((k - 1) * num_steps)
    assert share["evaluated"] == pytest.approx(1, abs=0.1)
    assert abs(share["fresh"]) < 4 * deviation < 0.05


def test_fresh_noise_stays_in_its_block() -> None:
    """Each block's mean moves by the losses of its own directions."""
    params = parameters()
    optimizer = ZOLDSD(params, lr=0.0, eps=EPS, mean_lr=1.0, mean_noise="fresh")
    optimizer.restrict(blocks="tensor")
    loss = make_loss()
    optimizer.step(lambda: loss(flat(params)))
    assert all(bool((optimizer.state[p]["mean"] != 0).all()) for p in params)
    assert len(optimizer.last.observations) == len(params)  # type: ignore[union-attr]


def test_without_a_mean_the_best_of_k_gaussians_is_left() -> None:
    params, loss, reference_loss = parameters(), make_loss(), make_loss()
    optimizer = ZOLDSD(params, lr=1e-3, eps=EPS, num_directions=4, mean_lr=0.0)
    theta = flat(params)
    seeds = optimizer.direction_seeds(4)
    optimizer.step(lambda: loss(flat(params)))
    z = [flat(optimizer._family(params, seed)) for seed in seeds]
    best = min(z, key=lambda one: reference_loss(theta + EPS * one))
    g = spsa(theta, lambda at: make_loss()(at), best, EPS)
    moved = (theta - flat(params)) / 1e-3
    assert float(moved @ best / (moved.norm() * best.norm())) == pytest.approx(
        math.copysign(1.0, g)
    )
