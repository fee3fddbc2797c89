"""The noise is N(0, 1), a function of (seed, parameter, element) and of nothing else."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from bszo.perturb import mix64, noise
from bszo.perturb.noise import eager, spec

SEEDS = [1, 2, 2**32, 2**63 + 11, 2**64 - 1]


def draw(count: int, seed: int, parameter: int = 0) -> Tensor:
    return noise.values(torch.Size((count,)), parameter, seed)


@pytest.fixture(scope="module")
def ten_million() -> Tensor:
    return draw(10_000_000, 20260116).double()


def test_moments_to_the_sixth(ten_million: Tensor) -> None:
    """Each sample moment within 4.5 of its standard errors, plus 2e-4 of itself for the inverse
    normal's fit."""
    n = ten_million.numel()
    power = torch.ones_like(ten_million)
    for order in range(1, 7):
        power = power * ten_million
        expected = 0.0 if order % 2 else float(math.prod(range(1, order, 2)))
        variance = float(math.prod(range(1, 2 * order, 2))) - expected**2
        assert (
            abs(float(power.mean()) - expected) < 4.5 * (variance / n) ** 0.5 + 2e-4 * expected
        ), order


def test_kolmogorov_smirnov_on_two_million(ten_million: Tensor) -> None:
    """The statistic by hand (sorting doubles in SciPy takes five times as long), its distribution
    from SciPy."""
    n = 2_000_000
    cdf = torch.special.ndtr(ten_million[:n].float().sort().values.double())
    rank = torch.arange(n, dtype=torch.float64)
    distance = max(float(((rank + 1) / n - cdf).max()), float((cdf - rank / n).max()))
    assert stats.kstwobign.sf(distance * n**0.5) > 1e-3


@pytest.mark.parametrize("threshold", [1.0, 2.0, 3.0, 4.0, 4.75])
def test_tails(ten_million: Tensor, threshold: float) -> None:
    n = ten_million.numel()
    for count in (int((ten_million > threshold).sum()), int((ten_million < -threshold).sum())):
        expected = n * float(stats.norm.sf(threshold))
        assert abs(count - expected) < 4.5 * expected**0.5 + 1


def test_the_far_tail_exists_and_is_finite(ten_million: Tensor) -> None:
    """The largest of 10^7 normal draws lies in (4.8, 5.9) with probability above 0.99; ours ends at
    5.43."""
    assert 4.8 < float(ten_million.abs().max()) < 5.5
    bits = torch.tensor([2**31 - 1, -(2**31), -(2**31) + 1, 0, 1, -1], dtype=torch.int32)
    extreme = spec.normal(bits)
    assert extreme.isfinite().all() and float(extreme[3]) == 0.0
    assert 5.0 < float(extreme[0]) < 5.5 and -5.5 < float(extreme[1]) < -5.0


def test_inverse_normal_is_accurate_everywhere() -> None:
    """Against the float64 inverse, from the middle to the last bit: relative error under 1e-4."""
    bits = torch.cat(
        [
            torch.arange(-(2**31), 2**31, 104_729),
            2**31 - 2 ** torch.arange(8, 31),
            2 ** torch.arange(8, 31),
        ]
    ).to(torch.int32)
    z = spec.normal(bits).double()
    u = bits.to(torch.float32).double() * 2.0**-31 * (1 - 2.0**-24)
    tail = stats.norm.isf((1 - u.abs().numpy()) / 2)
    exact = torch.from_numpy(tail) * torch.sign(u)
    assert float(((z - exact).abs() / exact.abs().clamp_min(1e-9)).max()) < 1.2e-4


def test_neighbours_are_uncorrelated(ten_million: Tensor) -> None:
    """Values, and squares (z^2 - 1 has variance 2), at lags that rows, chunks and powers of two
    would show."""
    z = ten_million[:3_000_000]
    square = (z * z - 1) / 2**0.5
    for lag in (1, 2, 3, 4, 8, 64, 768, 4096, 32768, 65536, 2**20):
        for values in (z, square):
            assert abs(float(values[:-lag] @ values[lag:])) < 4.5 * (z.numel() - lag) ** 0.5, lag


def test_seeds_and_parameters_are_uncorrelated() -> None:
    """All pairs of 24 consecutive seeds, of 3 far ones, and of 12 parameters: |correlation| < 5 /
    sqrt(n)."""
    n = 60_000
    streams = [draw(n, seed) for seed in range(24)] + [draw(n, seed) for seed in SEEDS[2:]]
    streams += [draw(n, 5, parameter) for parameter in range(1, 13)]
    z = torch.stack(streams).double()  # (39, n)
    for values, variance in ((z, 1.0), (z * z - 1, 2.0), (torch.sign(z), 1.0)):
        correlation = (values @ values.T) / (variance * n)
        off = correlation - torch.diag(torch.diagonal(correlation))
        assert float(off.abs().max()) < 5.2 / n**0.5
        assert float((torch.diagonal(correlation) - 1).abs().max()) < 0.05


def test_one_element_over_seeds_is_normal_too() -> None:
    """What an optimizer sees: the same element at consecutive steps."""
    # (4000, 3)
    z = torch.tensor(
        [draw(3, mix64(0, step, 0)).tolist() for step in range(4000)], dtype=torch.float64
    )
    for element in z.T:
        assert stats.kstest(element.numpy(), "norm").pvalue > 1e-4
        assert abs(float((element[1:] * element[:-1]).mean())) < 4.5 / 4000**0.5
    assert abs(float((z[:, 0] * z[:, 1]).mean())) < 4.5 / 4000**0.5


def test_rademacher() -> None:
    z = noise.values(torch.Size((1_000_000,)), 3, 9, distribution="rademacher").double()
    assert set(z.unique().tolist()) == {-1.0, 1.0}
    for lag in (1, 2, 64, 1024):
        assert abs(float((z[lag:] * z[:-lag]).mean())) < 4.5e-3
    assert abs(float(z.mean())) < 4.5e-3


@pytest.mark.parametrize("distribution", ["gaussian", "rademacher"])
def test_values_of_all_is_values(distribution: noise.Distribution) -> None:
    params = [
        torch.empty(3, 5),
        torch.empty(()),
        torch.empty(0, 4),
        torch.empty(33_000),
        torch.empty(2, 2, 70, 120),
    ]
    for seed in SEEDS:
        for i, z in enumerate(noise.values_of_all(params, seed, distribution=distribution)):
            assert torch.equal(z, noise.values(params[i].shape, i, seed, distribution=distribution))
            assert z.shape == params[i].shape and z.dtype == torch.float32


@settings(max_examples=15)
@given(seed=st.integers(0, 2**64 - 1), chunk=st.integers(1, 5000), rows=st.integers(1, 9))
def test_independent_of_chunks_and_rows(seed: int, chunk: int, rows: int) -> None:
    shape, columns = torch.Size((rows, 501)), 501
    whole = noise.values(shape, 4, seed)
    before = eager._CHUNK
    eager._CHUNK = chunk
    try:
        assert torch.equal(noise.values(shape, 4, seed), whole)
    finally:
        eager._CHUNK = before
    for row in range(rows):
        counter = torch.arange(row * columns, (row + 1) * columns, dtype=torch.int32)
        assert torch.equal(
            noise.shift(torch.zeros(columns), 4, {seed: 1.0}, counter=counter), whole[row]
        )


def test_independent_of_threads_and_of_global_generators() -> None:
    one = draw(300_000, 8)
    state = torch.get_rng_state()
    try:
        torch.manual_seed(1)
        torch.set_num_threads(3)
        assert torch.equal(draw(300_000, 8), one)
    finally:
        torch.set_num_threads(1)
        torch.set_rng_state(state)
    assert not torch.equal(draw(300_000, 9), one)


def by_hand(seed: int, parameter: int, element: int) -> float:
    """One value in Python integers and float64: the hash in words, and SciPy's inverse normal."""
    low, high = mix64(seed, parameter) & 0xFFFFFFFF, mix64(seed, parameter) >> 32
    h = (element * 0x9E3779B9 + low) & 0xFFFFFFFF
    h = ((h ^ (h >> 16)) * 0x7FEB352D + high) & 0xFFFFFFFF
    h = ((h ^ (h >> 15)) * 0x846CA68B) & 0xFFFFFFFF
    signed = h - ((h >> 31) << 32)
    return float(stats.norm.ppf((signed * 2.0**-31 + 1) / 2))


def test_a_seed_keeps_its_direction() -> None:
    """A stored (seed, coefficient) pair must mean the same step next year: a change here needs a
    new NOISE_VERSION."""
    assert noise.NOISE_VERSION == 1
    assert mix64(0) == 0xE220A8397B1DCDAF, (
        "SplitMix64's first output for seed 0 (Vigna's reference)"
    )
    assert mix64(-1) == mix64(2**64 - 1), "words count modulo 2^64"
    assert (
        len(
            {
                mix64(seed, step, i)
                for seed in range(10)
                for step in range(100)
                for i in range(-2, 3)
            }
        )
        == 5000
    )
    for seed, parameter in ((42, 1), (2**64 - 1, 300)):
        z = noise.values(torch.Size((300,)), parameter, seed).tolist()
        assert z == pytest.approx(
            [by_hand(seed, parameter, i) for i in range(300)], rel=1.2e-4, abs=1e-6
        )


def test_shift_adds_up_in_order_and_leaves_theta() -> None:
    theta = torch.linspace(-1, 1, 1000, dtype=torch.float64)
    kept = theta.clone()
    z = [noise.values(theta.shape, 2, seed).double() for seed in (5, 6)]
    out = noise.shift(theta, 2, {5: 0.25, 6: -3.0}, decay=0.9)
    torch.testing.assert_close(out, 0.9 * theta + 0.25 * z[0] - 3.0 * z[1], rtol=0, atol=1e-14)
    assert torch.equal(theta, kept)
    assert torch.equal(noise.shift(theta, 2, {}), theta)


def test_a_transposed_parameter_gets_the_noise_of_its_elements() -> None:
    theta = torch.zeros(40, 30).T
    out = torch.empty(40, 30).T
    noise.shift(theta, 0, {7: 1.0}, out=out)
    assert torch.equal(out, noise.values(torch.Size((30, 40)), 0, 7))
    assert torch.equal(noise.shift(theta, 0, {7: 1.0}), out)


@pytest.mark.parametrize("fused", [False, True])
def test_a_decay_that_is_less_than_a_last_digit_counts_on_average(fused: bool) -> None:
    """1 - 2e-8 is 1 in fp32. What the noise leaves of a last digit takes the decay along."""
    n, steps, decay = 40_000, 100, 2e-8
    moved, still = torch.ones(n), torch.ones(n)
    for step in range(steps):
        for p, factor in ((moved, 1 - decay), (still, 1.0)):
            noise.shift(p, 0, {step: 1e-3}, decay=factor, out=p, fused=fused)
    change = (moved.double() - still.double()).mean().item() / (steps * decay)
    assert change == pytest.approx(-1, abs=0.2)
