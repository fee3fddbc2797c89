"""The noise variance: Eq. 13 by hand, its limits, and a very long quiet run."""

import pytest
import torch

from bszo.core import Belief, condition, most_uncertain_direction, prior, residual, update_noise_var


def test_residual_is_the_miss_for_a_unit_direction() -> None:
    belief = Belief(
        torch.tensor([1.0, -2.0], dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    )
    d = torch.tensor([3.0, 4.0], dtype=torch.float64)  # |d| = 5, d^T mean = -5
    assert residual(belief, d, 10.0) == pytest.approx((10.0 + 5.0) / 5.0)
    assert residual(belief, 7 * d, 70.0) == pytest.approx(3.0), "the length of d divides out"


def test_update_is_eq_13() -> None:
    assert update_noise_var(4.0, 3.0, 0.1) == pytest.approx(0.9 * 4.0 + 0.1 * 9.0)
    assert update_noise_var(4.0, -3.0, 0.1) == update_noise_var(4.0, 3.0, 0.1)
    assert update_noise_var(2.0, 5.0, 0.25) == pytest.approx(0.75 * 2.0 + 0.25 * 25.0)


def test_floor_is_a_variance() -> None:
    assert update_noise_var(1.0, 0.0, 0.5, floor=0.8) == 0.8
    assert update_noise_var(1.0, 0.0, 0.5, floor=0.3) == 0.5
    assert update_noise_var(1.0, 0.0, 0.5) == 0.5


def test_it_converges_to_the_mean_squared_residual() -> None:
    noise_var = 100.0
    for i in range(4000):
        noise_var = update_noise_var(noise_var, 1.0 if i % 2 else 3.0, 0.01)
    assert noise_var == pytest.approx(5.0, rel=0.02)


# y = 1e-3 has the same fall, and a mean to lose
@pytest.mark.parametrize("y", [pytest.param(0.0, marks=pytest.mark.exhaustive), 1e-3])
def test_without_a_floor_eight_thousand_quiet_updates_neither_divide_by_zero_nor_lose_the_mean(
    y: float,
) -> None:
    """Algorithm 1 as printed: noise_var falls to nothing, the gain goes to 1, and nothing breaks on
    the way."""
    noise_var = 1.0
    belief = prior(2, 1.0)
    for _ in range(800):
        belief = prior(2, 1.0)
        for axis in torch.eye(2, dtype=torch.float64):
            belief = condition(belief, axis, y, noise_var)
        for _ in range(10):
            d = most_uncertain_direction(belief)
            noise_var = update_noise_var(noise_var, residual(belief, d, y), 0.1)
            belief = condition(belief, d, y, noise_var)
    assert 0 < noise_var < 1e-100
    assert belief.mean.tolist() == pytest.approx([y, y])
