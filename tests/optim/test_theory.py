"""What the methods' theorems say of the mean and the size of a step, by Monte Carlo with its
standard error."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bszo import BSZO, LOZO, MeZO

SLOPE = torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0, -0.7], dtype=torch.float64)
CURVATURE = torch.linspace(0.5, 3.0, 6, dtype=torch.float64)
DRAWS = 600
FEW = 300  # where four standard errors are less than half of what a wrong factor of two would make


def moves(
    make: Callable[[list[nn.Parameter]], Any],
    shape: tuple[int, ...],
    loss: Callable[[Tensor], Tensor],
    draws: int = DRAWS,
) -> Tensor:
    """(draws, n): independent steps, each from the same theta."""
    p = nn.Parameter(
        torch.linspace(-1, 1, torch.Size(shape).numel(), dtype=torch.float64).reshape(shape)
    )
    start, optimizer, deltas = p.detach().clone(), None, []
    optimizer = make([p])
    for _ in range(draws):
        optimizer.step(lambda: loss(p))
        deltas.append((p.detach() - start).reshape(-1).clone())
        with torch.no_grad():
            p.copy_(start)
    return torch.stack(deltas)


def assert_mean(samples: Tensor, expected: Tensor) -> None:
    """Within four standard errors, entry by entry."""
    error = samples.std(dim=0) / samples.shape[0] ** 0.5
    assert bool(((samples.mean(dim=0) - expected).abs() < 4 * error).all()), (
        samples.mean(dim=0),
        expected,
        error,
    )


def linear(p: Tensor) -> Tensor:
    return SLOPE @ p


def quadratic(p: Tensor) -> Tensor:
    return 0.5 * CURVATURE @ p.square() + SLOPE @ p


@pytest.mark.parametrize(
    ("loss", "gradient"),
    [
        (linear, SLOPE),
        (quadratic, SLOPE + CURVATURE * torch.linspace(-1, 1, 6, dtype=torch.float64)),
    ],
)
def test_theorem_3_7(loss: Any, gradient: Tensor) -> None:
    """E[delta theta] = -lr gamma k grad L, and Eq. 55: E|delta theta|^2 = k (n + k + 1) |grad L|^2
    lr^2 gamma^2."""
    lr, k, prior_var, noise_var = 0.1, 3, 2.0, 0.5
    gamma = prior_var / (prior_var + noise_var)
    delta = moves(
        lambda params: BSZO(
            params,
            lr=lr,
            k=k,
            m=k,
            eps=1e-5,
            prior_var=prior_var,
            noise_var=noise_var,
            adapt_noise="never",
        ),
        (6,),
        loss,
    )
    assert_mean(delta, -lr * gamma * k * gradient)
    n = gradient.numel()
    size = k * (n + k + 1) * float(gradient @ gradient) * lr**2 * gamma**2
    assert_mean(delta.square().sum(dim=1, keepdim=True), torch.tensor([size], dtype=torch.float64))


def test_mezo_is_unbiased() -> None:
    assert_mean(moves(lambda params: MeZO(params, lr=0.1, eps=1e-3), (6,), linear), -0.1 * SLOPE)


@pytest.mark.parametrize(("shape", "rank"), [((2, 3), 1), ((2, 3), 2), ((6,), 2), ((3, 1, 2), 2)])
def test_lozo_with_one_over_r_is_unbiased(shape: tuple[int, ...], rank: int) -> None:
    """For a matrix of any rank r, and for a vector, which needs no factor: E[s g P] = grad L."""
    # a matrix that the rank fits, beside the vector
    idle = nn.Parameter(torch.zeros(2, 2, dtype=torch.float64))
    delta = moves(
        lambda params: LOZO([*params, idle], lr=0.1, eps=1e-3, rank=rank, interval=1),
        shape,
        lambda p: SLOPE @ p.reshape(-1),
        FEW,
    )
    assert_mean(delta, -0.1 * SLOPE)


def test_lozo_as_run_is_r_times_too_long() -> None:
    delta = moves(
        lambda params: LOZO(params, lr=0.1, eps=1e-3, rank=2, interval=1, scale="none"),
        (2, 3),
        lambda p: SLOPE @ p.reshape(-1),
        FEW,
    )
    assert_mean(delta, -0.2 * SLOPE)


def test_lozo_on_a_redraw_step_as_run_goes_nowhere_on_average() -> None:
    """The published slip: on redraw steps g belongs to another direction, so the mean step is
    zero."""
    delta = moves(
        lambda params: LOZO(params, lr=0.1, eps=1e-3, rank=2, interval=1, redraw_stream="as-run"),
        (2, 3),
        lambda p: SLOPE @ p.reshape(-1),
        FEW,
    )
    assert_mean(delta, 0 * SLOPE)


@pytest.mark.parametrize(
    "limits", [{"prior_var": 1e12, "noise_var": 1.0}, {"prior_var": 1.0, "noise_var": 1e-12}]
)
def test_bszo_with_m_equal_k_and_a_flat_prior_takes_the_forward_difference_step(
    limits: dict[str, float],
) -> None:
    p = nn.Parameter(torch.linspace(-1, 1, 6, dtype=torch.float64))
    optimizer = BSZO([p], lr=0.05, k=4, m=4, eps=1e-3, adapt_noise="never", seed=3, **limits)  # type: ignore[arg-type]
    for _ in range(3):
        theta, seeds = p.detach().clone(), optimizer.direction_seeds(4)
        z = [optimizer.make_family([p]).direction(seed, 0).double() for seed in seeds]
        optimizer.step(lambda: quadratic(p))
        step = sum(
            ((quadratic(theta + 1e-3 * one) - quadratic(theta)) / 1e-3 * one for one in z),
            0 * theta,
        )
        torch.testing.assert_close(p.detach(), theta - 0.05 * step, rtol=1e-9, atol=1e-10)
        assert optimizer.last is not None and optimizer.last.gain == pytest.approx(1.0, abs=1e-10)


def test_the_gain_clips_large_observations_softly() -> None:
    """RoBERTa-large's sigma_0^2 = 355: steady gains 0.99, 0.89, 0.055, 0.001, as measured on the
    authors' rule."""
    gains = {}
    for slope in (1.0, 10.0, 100.0, 1000.0):
        p = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        optimizer = BSZO(
            [p],
            lr=0.0,
            prior_var=355.0,
            noise_var=355.0,
            eps=1e-4,
            directions=lambda params, seed: [torch.ones(1)],
        )
        for _ in range(150):  # noise_var has forgotten its start but for 0.9^150
            optimizer.step(lambda p=p, slope=slope: slope * p.sum())
        assert optimizer.last is not None and optimizer.last.gain is not None
        gains[slope] = optimizer.last.gain
    assert gains[1.0] == pytest.approx(0.99, abs=0.006) and gains[10.0] == pytest.approx(
        0.89, abs=0.1
    )
    assert gains[100.0] == pytest.approx(0.055, abs=0.02) and gains[1000.0] == pytest.approx(
        0.001, abs=0.0005
    )
