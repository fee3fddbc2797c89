"""Masks: the share of zeros is the one asked for, wherever and however often they are made."""

import pytest
import torch
from torch import Tensor

from bszo.perturb import Gaussian, LowRank, Mask, Scaled, Sparse, zeros_of


@pytest.fixture
def params() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    scales = {(60, 70): 1.0, (70,): 0.1, (): 3.0, (30, 20, 4): 0.5, (0, 3): 1.0}
    return [scale * torch.randn(shape, generator=generator) for shape, scale in scales.items()]


@pytest.mark.parametrize("sparsity", [0.0, 0.01, 0.5, 0.75, 0.999])
def test_a_layer_has_exactly_its_share_of_zeros(params: list[Tensor], sparsity: float) -> None:
    mask = Mask(params, 3, zeros_of(params, sparsity, "layer"))
    for i, p in enumerate(params):
        zeros = int((~mask.keeps(i)).sum())
        assert mask.keeps(i).shape == p.shape
        assert abs(zeros - sparsity * p.numel()) < 1 and zeros == mask.count(i)


def test_the_mean_share_is_exact_for_small_parameters_too() -> None:
    """A scalar is masked in s of the draws, by a draw of its own."""
    params = [torch.zeros(()), torch.zeros(3)]
    draws = [Mask(params, seed, zeros_of(params, 0.25, "layer")) for seed in range(2000)]
    scalar = torch.stack([~mask.keeps(0) for mask in draws]).double()
    vector = torch.stack([~mask.keeps(1) for mask in draws]).double()
    assert float(scalar.mean()) == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 2000) ** 0.5)
    assert torch.allclose(
        vector.mean(dim=0), torch.full((3,), 0.25, dtype=torch.float64), atol=0.04
    )


def test_every_rank_of_the_threshold_against_a_sort() -> None:
    params = [torch.zeros(257)]
    for count in range(258):
        mask = Mask(params, 11, [float(count)])
        hashes = torch.cat(list(mask._bits(0)))
        assert hashes.unique().numel() == 257
        smallest = torch.zeros(257, dtype=torch.bool)
        smallest[hashes.argsort()[:count]] = True
        assert torch.equal(~mask.keeps(0), smallest)


def test_a_mask_is_a_function_of_its_seed_and_of_nothing_else(params: list[Tensor]) -> None:
    zeros = zeros_of(params, 0.5, "layer")
    one, again, other = Mask(params, 1, zeros), Mask(params, 1, zeros), Mask(params, 2, zeros)
    again.keeps(3)  # another order of asking
    for i in (0, 1, 3):
        assert torch.equal(one.keeps(i), again.keeps(i)) and not torch.equal(
            one.keeps(i), other.keeps(i)
        )
        counter = torch.tensor([[5, 0], [1, 66]], dtype=torch.int32)
        assert torch.equal(one.keeps(i, counter), one.keeps(i).reshape(-1)[counter.long()])
    both = (~one.keeps(0) & ~other.keeps(0)).double().mean()
    assert float(both) == pytest.approx(0.25, abs=0.03), "draws are independent"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sparsity", [0.0, 0.2, 0.9])
def test_global_shares_are_those_of_magnitude_pruning(
    params: list[Tensor], dtype: torch.dtype, sparsity: float
) -> None:
    params = [p.to(dtype) for p in params]
    flat = torch.cat([p.abs().double().reshape(-1) for p in params])
    wanted = round(sparsity * flat.numel())
    ordered = flat.sort().values
    least = float(ordered[max(wanted, 1) - 1])
    zeros = zeros_of(params, sparsity, "global")
    assert sum(zeros) == pytest.approx(wanted, abs=1e-6)
    for p, found in zip(params, zeros, strict=True):
        magnitudes = p.abs().double()
        below, ties = int((magnitudes < least).sum()), int((magnitudes == least).sum())
        assert below - 1e-9 <= found <= below + ties + 1e-9 if wanted else found == 0
    if sparsity == 0.2:
        assert zeros[1] / 70 > 0.5 > zeros[0] / 4200, "the layer of small weights is masked most"


def families(params: list[Tensor]) -> dict[str, Gaussian | LowRank | Scaled]:
    curvature = [
        torch.rand(p.shape, generator=torch.Generator().manual_seed(1)) + 0.5 for p in params
    ]
    scaled = Scaled(Gaussian(params), curvature)
    return {"gaussian": Gaussian(params), "low-rank": LowRank(params, 2, 99), "scaled": scaled}


@pytest.mark.parametrize("family", ["gaussian", "low-rank", "scaled"])
def test_a_sparse_direction_is_the_base_s_times_the_mask(
    params: list[Tensor], family: str, size: str
) -> None:
    base = families(params)[family]
    mask = Mask(params, 5, zeros_of(params, 0.6, "layer"))
    tested, terms = Sparse(base, mask), {3: 2.0, 4: -0.1}
    for i, p in enumerate(params):
        z = {seed: base.direction(seed, i).double() * mask.keeps(i) for seed in terms}
        assert torch.equal(tested.direction(3, i).double(), z[3])
        theta = p.double()
        for decay in (1.0, 0.5):
            expected = decay * theta + sum(c * z[seed] for seed, c in terms.items())
            torch.testing.assert_close(
                tested.shift(theta, i, terms, decay=decay), expected, rtol=0, atol=1e-13
            )
        inplace = theta.clone()
        assert tested.shift(inplace, i, terms, out=inplace) is inplace
        torch.testing.assert_close(inplace, tested.shift(theta, i, terms), rtol=0, atol=0)
    rows = torch.tensor([4, 0])
    assert torch.equal(
        tested.shift_rows(params[0], 0, rows, terms), tested.shift(params[0], 0, terms)[rows]
    )
    tested.release()
    assert getattr(base, "_kept", {}) == {}


def test_what_is_masked_keeps_its_bits_under_stochastic_rounding() -> None:
    params = [torch.randn(4000, generator=torch.Generator().manual_seed(2)).to(torch.bfloat16)]
    tested = Sparse(Gaussian(params), Mask(params, 5, zeros_of(params, 0.5, "layer")))
    shifted = tested.shift(params[0], 0, {1: 0.3}, rounding_seed=7)
    masked = ~tested.mask.keeps(0)
    assert torch.equal(shifted[masked], params[0][masked])
    assert float((shifted[~masked] != params[0][~masked]).double().mean()) > 0.95
