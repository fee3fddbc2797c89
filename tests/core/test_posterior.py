"""The Kalman recursion against the batch formula, which knows no recursion."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bszo.core import Belief, condition, most_uncertain_direction, prior


def batch_posterior(
    rows: Tensor, y: Tensor, prior_var: float, noise_var: float
) -> tuple[Tensor, Tensor]:
    """Eq. 9: Sigma = (I / sp2 + D^T R^-1 D)^-1, mu = Sigma D^T R^-1 Y with R = noise_var diag
    |d|^2."""
    weight = 1.0 / (noise_var * (rows * rows).sum(dim=1))  # (m,)
    precision = torch.eye(rows.shape[1], dtype=torch.float64) / prior_var + rows.T @ (
        weight[:, None] * rows
    )
    cov = torch.linalg.inv(precision)
    return cov @ (rows.T @ (weight * y)), cov


def recursion(rows: Tensor, y: Tensor, prior_var: float, noise_var: float) -> Belief:
    belief = prior(rows.shape[1], prior_var)
    for d, value in zip(rows, y, strict=True):
        belief = condition(belief, d, float(value), noise_var)
    return belief


variances = st.floats(min_value=1e-3, max_value=1e3)


@settings(max_examples=60)
@given(
    k=st.integers(1, 6),
    extra=st.integers(-3, 7),
    prior_var=variances,
    noise_var=variances,
    length=st.floats(min_value=1e-2, max_value=1e2),
    seed=st.integers(0, 2**31),
)
def test_recursion_is_the_batch_formula(
    k: int, extra: int, prior_var: float, noise_var: float, length: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    m = max(1, k + extra)
    rows = length * torch.randn(m, k, dtype=torch.float64, generator=generator)
    y = 10 * torch.randn(m, dtype=torch.float64, generator=generator)
    belief = recursion(rows, y, prior_var, noise_var)
    mean, cov = batch_posterior(rows, y, prior_var, noise_var)
    torch.testing.assert_close(belief.cov, cov, rtol=1e-7, atol=1e-9 * prior_var)
    torch.testing.assert_close(belief.mean, mean, rtol=1e-7, atol=1e-7)
    assert torch.equal(belief.cov, belief.cov.T)


@settings(max_examples=40)
@given(k=st.integers(1, 8), prior_var=variances, noise_var=variances, seed=st.integers(0, 2**31))
def test_corollary_3_6(k: int, prior_var: float, noise_var: float, seed: int) -> None:
    """m = k axes: cov = prior_var (1 - gamma) I, mean = gamma Y. (The paper prints cov = gamma
    I.)"""
    y = torch.randn(k, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    eye = torch.eye(k, dtype=torch.float64)
    belief = recursion(eye, y, prior_var, noise_var)
    gamma = prior_var / (prior_var + noise_var)
    # prior_var (1 - gamma), without the cancellation
    shrunk = prior_var * noise_var / (prior_var + noise_var)
    torch.testing.assert_close(belief.mean, gamma * y, rtol=1e-12, atol=0)
    torch.testing.assert_close(belief.cov, shrunk * eye, rtol=1e-8, atol=1e-12 * prior_var)
    assert torch.equal(belief.cov, torch.diag(torch.diagonal(belief.cov))), (
        "axes keep cov exactly diagonal"
    )


def test_order_of_observations_does_not_matter() -> None:
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(7, 3, dtype=torch.float64, generator=generator)
    y = torch.arange(7, dtype=torch.float64)
    forwards, backwards = recursion(rows, y, 2.0, 0.3), recursion(rows.flip(0), y.flip(0), 2.0, 0.3)
    torch.testing.assert_close(forwards.mean, backwards.mean, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(forwards.cov, backwards.cov, rtol=1e-10, atol=1e-12)


def test_the_length_of_d_scales_only_the_observation() -> None:
    """y / c along d is the same evidence as y along c d, because the noise is noise_var |d|^2."""
    d = torch.tensor([0.3, -2.0, 1.0])
    one = condition(prior(3, 1.7), d, 5.0, 0.4)
    other = condition(prior(3, 1.7), -8.0 * d, -40.0, 0.4)
    torch.testing.assert_close(one.mean, other.mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(one.cov, other.cov, rtol=1e-12, atol=1e-15)


def test_a_seen_direction_is_less_uncertain_and_others_are_not_more() -> None:
    before = prior(3, 4.0)
    d = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64) / 2**0.5
    after = condition(before, d, 1.0, 1.0)
    assert float(d @ after.cov @ d) == pytest.approx(4.0 * 1.0 / (4.0 + 1.0))
    assert torch.linalg.eigvalsh(before.cov - after.cov).min() > -1e-12
    orthogonal = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    assert float(orthogonal @ after.cov @ orthogonal) == pytest.approx(4.0)


def test_exact_observations_are_taken_at_their_word() -> None:
    belief = condition(prior(2, 1.0), torch.tensor([1.0, 0.0]), 3.0, 0.0)
    belief = condition(belief, torch.tensor([0.0, 1.0]), -2.0, 0.0)
    assert belief.mean.tolist() == [3.0, -2.0]
    assert belief.cov.abs().max() == 0.0
    with pytest.raises(ValueError, match="already known"):
        condition(belief, torch.tensor([1.0, 0.0]), 3.0, 0.0)


def test_belief_is_float64_and_inputs_stay() -> None:
    belief = prior(2, 0.5)
    mean, cov = belief.mean.clone(), belief.cov.clone()
    after = condition(belief, torch.tensor([1.0, 2.0], dtype=torch.float32), 1.0, 0.1)
    assert after.mean.dtype == after.cov.dtype == torch.float64
    assert torch.equal(belief.mean, mean) and torch.equal(belief.cov, cov)


def test_most_uncertain_direction_of_a_full_covariance_is_its_principal_eigenvector() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        root = torch.randn(4, 4, dtype=torch.float64, generator=generator)
        cov = root @ root.T
        d = most_uncertain_direction(Belief(torch.zeros(4, dtype=torch.float64), cov))
        values = torch.linalg.eigvalsh(cov)
        torch.testing.assert_close(cov @ d, values[-1] * d, rtol=1e-9, atol=1e-9)
        assert float(d.norm()) == pytest.approx(1.0, rel=1e-12)
        assert d[int(d.abs().argmax())] > 0


@pytest.mark.parametrize(
    ("diagonal", "axis"), [([1.0, 3.0, 2.0], 1), ([2.0, 2.0, 2.0], 0), ([1.0, 5.0, 5.0], 1)]
)
def test_most_uncertain_direction_of_a_diagonal_covariance_is_the_first_largest_axis(
    diagonal: list[float], axis: int
) -> None:
    cov = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    d = most_uncertain_direction(Belief(torch.zeros(3, dtype=torch.float64), cov))
    assert torch.equal(d, torch.eye(3, dtype=torch.float64)[axis])


@pytest.mark.parametrize(
    ("k", "prior_var"),
    [(0, 1.0), (-1, 1.0), (2, 0.0), (2, -1.0), (2, float("inf")), (2, float("nan"))],
)
def test_prior_refuses(k: int, prior_var: float) -> None:
    with pytest.raises(ValueError, match=r"k=|prior_var="):
        prior(k, prior_var)


def test_condition_refuses_negative_noise_and_the_zero_direction() -> None:
    with pytest.raises(ValueError, match="noise_var=-1"):
        condition(prior(2, 1.0), torch.tensor([1.0, 0.0]), 0.0, -1.0)
    with pytest.raises(ValueError, match="d is zero"):
        condition(prior(2, 1.0), torch.zeros(2), 0.0, 1.0)
