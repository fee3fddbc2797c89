"""16-bit parameters: one rounding a shift, and stochastic rounding that is right on average."""

import pytest
import torch

from bszo.perturb import noise

TERMS = {11: 1e-3, 12: -0.37}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_one_rounding(dtype: torch.dtype) -> None:
    """The result is the fp64 sum rounded once; where the fp32 sum falls on the other side of a tie,
    its neighbour."""
    theta = torch.randn(200_000, generator=torch.Generator().manual_seed(0)).to(dtype)
    exact = 0.99 * theta.double()
    for seed, c in TERMS.items():
        exact += c * noise.values(theta.shape, 3, seed).double()
    shifted = noise.shift(theta, 3, TERMS, decay=0.99)
    once = exact.to(dtype)
    assert shifted.dtype == dtype
    assert float((shifted != once).double().mean()) < 1e-3, (
        "fp32 sums differ from fp64 ones near ties only"
    )
    away = torch.nextafter(once, torch.copysign(torch.full_like(once, float("inf")), once))
    assert bool(
        (
            (shifted.double() - exact).abs() <= 0.502 * (away.double() - once.double()).abs() + 1e-7
        ).all()
    )
    twice = (
        (0.99 * theta.float()).to(dtype)
        + (TERMS[11] * noise.values(theta.shape, 3, 11)).to(dtype)
        + (TERMS[12] * noise.values(theta.shape, 3, 12)).to(dtype)
    )
    assert float((twice != once).double().mean()) > 0.05, (
        "the test must be able to see a second rounding"
    )


def test_stochastic_rounding_is_unbiased() -> None:
    """theta = 1 plus a quarter of an ulp: up in a quarter of the draws, over elements and over
    seeds."""
    ulp = 2.0**-7
    for fraction in (0.25, 0.5, 0.9, 1 / 64):
        acc = torch.full((400_000,), 1.0 + fraction * ulp)
        out = noise.round_to(acc, 0, 77, torch.empty_like(acc, dtype=torch.bfloat16)).double()
        assert set(out.unique().tolist()) == {1.0, 1.0 + ulp}
        up = float((out > 1.0).double().mean())
        assert abs(up - fraction) < 4.5 * (fraction * (1 - fraction) / acc.numel()) ** 0.5
    single = torch.full((1,), -(1.0 + 0.3 * ulp))
    ups = [
        float(noise.round_to(single, 0, seed, torch.empty(1, dtype=torch.bfloat16))) != -1.0
        for seed in range(6000)
    ]
    assert abs(sum(ups) / 6000 - 0.3) < 4.5 * (0.21 / 6000) ** 0.5


def test_stochastic_rounding_of_a_random_walk_keeps_its_mean() -> None:
    """Nearest rounding swallows steps of an eighth of an ulp for ever; stochastic rounding does
    not."""
    theta = torch.ones(20_000, dtype=torch.bfloat16)
    step = torch.full((20_000,), 2.0**-10)
    nearest, stochastic = theta.clone(), theta.clone()
    for seed in range(64):
        noise.round_to(nearest.float() + step, 0, None, nearest)
        noise.round_to(stochastic.float() + step, 0, seed, stochastic)
    assert bool((nearest == 1.0).all())
    assert float(stochastic.double().mean()) == pytest.approx(
        1 + 64 * 2.0**-10, abs=4.5 * 0.022 / 20_000**0.5
    )


def test_what_is_representable_stays() -> None:
    exact = torch.randn(50_000, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    for seed in range(5):
        assert torch.equal(noise.round_to(exact.float(), 0, seed, torch.empty_like(exact)), exact)
        assert torch.equal(noise.shift(exact, 0, {}, rounding_seed=seed), exact)


def test_infinities_pass_and_neighbouring_bits_are_independent() -> None:
    acc = torch.tensor([float("inf"), float("-inf"), float("nan"), 0.0, -0.0])
    out = noise.round_to(acc, 0, 5, torch.empty(5, dtype=torch.bfloat16))
    assert (
        out[0] == float("inf")
        and out[1] == float("-inf")
        and out[2].isnan()
        and (out[3:] == 0).all()
    )
    half = torch.full((500_000,), 1.0 + 0.5 * 2.0**-7)
    up = (
        noise.round_to(half, 0, 9, torch.empty_like(half, dtype=torch.bfloat16)) > 1
    ).double() * 2 - 1
    other = (
        noise.round_to(half, 0, 10, torch.empty_like(half, dtype=torch.bfloat16)) > 1
    ).double() * 2 - 1
    for lag in (1, 2, 3, 4, 16, 64, 1024, 65536):
        assert abs(float((up[lag:] * up[:-lag]).mean())) < 4.5 / (500_000 - lag) ** 0.5, lag
    assert abs(float((up * other).mean())) < 4.5 / 500_000**0.5


def test_shift_and_round_to_agree_bit_for_bit() -> None:
    """A small model (z kept) and a large one (z made in the kernel) round alike."""
    theta = torch.randn(40_000, generator=torch.Generator().manual_seed(2)).to(torch.bfloat16)
    acc = theta.float()
    for seed, c in TERMS.items():
        acc = acc + c * noise.values(theta.shape, 6, seed)
    for rounding_seed in (None, 3):
        kept = noise.round_to(acc, 6, rounding_seed, torch.empty_like(theta))
        assert torch.equal(noise.shift(theta, 6, TERMS, rounding_seed=rounding_seed), kept)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_other_types_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match="bfloat16"):
        noise.shift(torch.zeros(3, dtype=dtype), 0, {1: 1.0}, rounding_seed=1)
    with pytest.raises(ValueError, match="bfloat16"):
        noise.round_to(torch.zeros(3), 0, 1, torch.zeros(3, dtype=dtype))


@pytest.mark.parametrize(
    ("dtype", "rounding_seed"),
    [(torch.bfloat16, None), (torch.bfloat16, 3), (torch.float32, None), (torch.float64, None)],
)
def test_add_is_a_sum_rounded_once(dtype: torch.dtype, rounding_seed: int | None) -> None:
    """In parts, in place, and by the compiled kernel, the numbers are those of one sum rounded
    once."""
    theta = torch.randn(40, 100, generator=torch.Generator().manual_seed(2)).to(dtype)
    wide = torch.promote_types(dtype, torch.float32)
    step = noise.values(theta.shape, 6, 8).to(wide)
    expected = noise.round_to(theta + step, 6, rounding_seed, torch.empty_like(theta))
    for fused in (False, True):
        at = theta.clone()
        for rows in (slice(0, 13), slice(13, 40)):
            noise.add(
                at[rows],
                step[rows],
                6,
                out=at[rows],
                rounding_seed=rounding_seed,
                first=rows.start * 100,
                fused=fused,
            )
        assert torch.equal(at, expected)
        halved = noise.add(theta, step, 6, decay=0.5, out=torch.empty_like(theta), fused=fused)
        # theta comes last (`noise.shift`)
        whole = theta.to(wide) + (step - 0.5 * theta.to(wide))
        assert torch.equal(halved, whole.to(dtype))
