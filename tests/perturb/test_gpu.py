"""On a GPU: the kernels' numbers are the CPU's, and weights that are made in groups are the same
ones."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bszo.perturb import Copies, Gaussian, LossOracle, LowRank, Scaled, Streaming, noise
from bszo.perturb.noise import seeds

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a GPU: torch.cuda finds none"
)

# of the largest |z|, 5.43: about three of its last places
ULPS = 16 * torch.finfo(torch.float32).eps


def theta(count: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("distribution", ["gaussian", "rademacher"])
def test_values_are_the_cpus_to_a_few_last_places(distribution: noise.Distribution) -> None:
    shape = torch.Size((1_000_003,))
    for seed, parameter in ((1, 0), (2**64 - 1, 5), (2**40 + 3, 123_456)):
        here = noise.values(shape, parameter, seed, distribution=distribution)
        there = noise.values(shape, parameter, seed, device="cuda", distribution=distribution).cpu()
        assert float((here - there).abs().max()) < ULPS


def test_single_elements_are_those_of_all() -> None:
    """They come from torch's own operations, and all values from a kernel."""
    shape, rows = torch.Size((50, 3)), torch.tensor([[49, 0], [7, 7]], device="cuda")
    counter = rows[..., None] * 3 + torch.arange(3, device="cuda")
    of = torch.tensor([[0], [1]], device="cuda")
    here = noise.values_at(counter, 2, [5, 9], of[..., None])
    there = torch.stack([noise.values(shape, 2, seed, device="cuda") for seed in (5, 9)])[of, rows]
    assert float((here - there).abs().max()) < ULPS


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("count", [1, 7, 2048, 2049, 100_000])
def test_shifts_round_once_as_on_the_cpu(dtype: torch.dtype, count: int) -> None:
    """In 32 bits to a few last places; in 16 bits the same numbers but where a sum lies between two
    of them."""
    terms = {3: 0.25, 2**63: -1.5, 4: 1e-3}
    here = noise.shift(theta(count, dtype), 2, terms, decay=0.75)
    there = noise.shift(theta(count, dtype).cuda(), 2, terms, decay=0.75).cpu()
    if dtype == torch.float32:
        torch.testing.assert_close(there, here, rtol=0, atol=ULPS)
    else:
        torch.testing.assert_close(
            there.float(), here.float(), rtol=2 * torch.finfo(dtype).eps, atol=1e-5
        )
        assert float((there != here).float().mean()) < 2e-3 + 1 / count * (count < 1000)


def test_many_terms_rows_and_places_beyond_one_block() -> None:
    """16 directions at once; rows of a matrix by their elements' numbers; a result in place."""
    terms = {seed: 0.1 * seed for seed in range(1, 17)}
    start = theta(6000, torch.float32).reshape(60, 100)
    here = noise.shift(start, 1, terms)
    there = start.cuda()
    noise.shift(there, 1, terms, out=there)
    torch.testing.assert_close(there.cpu(), here, rtol=0, atol=16 * 1.6 * ULPS)
    family, rows = Gaussian([start.cuda()]), torch.tensor([0, 59, 7], device="cuda")
    torch.testing.assert_close(
        family.shift_rows(start.cuda(), 0, rows, terms),
        family.shift(start.cuda(), 0, terms)[rows],
        rtol=0,
        atol=0,
    )


def test_stochastic_rounding_has_the_cpus_bits_and_no_bias() -> None:
    start, terms = theta(200_000, torch.bfloat16), {9: 1e-3}
    here = noise.shift(start, 0, terms, rounding_seed=77)
    there = noise.shift(start.cuda(), 0, terms, rounding_seed=77).cpu()
    assert float((there != here).float().mean()) < 1e-3
    exact = noise.shift(start.float(), 0, terms)
    error = (there.float() - exact).double()
    assert abs(float(error.mean())) < 4.5 * float(error.std()) / error.numel() ** 0.5


def test_curvature_scales_the_direction() -> None:
    h = theta(5000, torch.float32).abs() + 0.1
    for dtype in (torch.float32, torch.bfloat16):
        p, curvature = theta(5000, dtype).cuda(), h.to(dtype).cuda()
        family = Scaled(Gaussian([p]), [curvature])
        expected = p.float() + 0.5 * family.direction(3, 0)
        found = family.shift(p, 0, {3: 0.5})
        torch.testing.assert_close(found.float(), expected.to(dtype).float(), rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_rank_shift_is_its_direction_added(dtype: torch.dtype) -> None:
    p = theta(300 * 5000, dtype).reshape(300, 5000).cuda()
    family = LowRank([p], 2, 11)
    expected = (
        p.double() * 0.5 + 0.25 * family.direction(3, 0).double() - family.direction(4, 0).double()
    )
    found = family.shift(p, 0, {3: 0.25, 4: -1.0}, decay=0.5)
    torch.testing.assert_close(found.double(), expected, rtol=2 * torch.finfo(dtype).eps, atol=1e-5)


class Tower(nn.Module):
    """Layers of two sizes, one of which runs twice in a pass, and a layer that is alone of its
    size."""

    def __init__(self, width: int = 512) -> None:
        super().__init__()
        self.up, self.again = nn.Linear(width, 4 * width), nn.Linear(width, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(6))
        self.down, self.odd = nn.Linear(4 * width, width), nn.Linear(width, 3)
        self.turned = False

    def forward(self, x: Tensor) -> Tensor:
        layers: list[Callable[[Tensor], Tensor]] = [*self.layers, self.again]
        for layer in reversed(layers) if self.turned else layers:
            x = x + torch.tanh(layer(x))
        return self.odd(self.again(self.down(torch.relu(self.up(x)))))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_made_in_groups_are_the_same_and_theta_stays(dtype: torch.dtype) -> None:
    """Passes in one order, in another, and back: each gives what copies made one by one give, bit
    for bit."""
    torch.manual_seed(0)
    module = Tower().cuda().to(dtype)
    x = torch.randn(64, 512, device="cuda", dtype=dtype)
    params: list[Tensor] = list(module.parameters())
    before = [p.detach().clone() for p in params]
    family = Gaussian(params)
    grouped = Streaming(params, module)
    plain = Copies(params, list(range(len(params))))
    with torch.no_grad():
        for turn, turned in enumerate((False, False, False, True, True, False, False)):
            module.turned = turned
            terms = {turn + 1: 1e-2}
            with plain.at(family, terms):
                expected = module(x).clone()
            with grouped.at(family, terms):
                found = module(x)
            assert torch.equal(found, expected), turn
            foreseen = turn not in (0, 3, 5)  # one pass is enough to know an order
            assert (grouped.groups is not None and not any(grouped.groups.left)) == foreseen, turn
    assert all(torch.equal(a, b) for a, b in zip(before, params, strict=True))


def test_an_error_within_a_pass_leaves_theta_and_the_next_pass_alone() -> None:
    module = Tower().cuda()
    x = torch.randn(8, 512, device="cuda")
    params: list[Tensor] = list(module.parameters())
    before = [p.detach().clone() for p in params]
    family, engine = Gaussian(params), Streaming(params, module)
    with torch.no_grad():
        for _ in range(2):
            with engine.at(family, {1: 1e-2}):
                expected = module(x).clone()
        handle = module.down.register_forward_pre_hook(
            lambda *_: (_ for _ in ()).throw(RuntimeError("in the middle"))
        )
        with pytest.raises(RuntimeError, match="in the middle"), engine.at(family, {1: 1e-2}):
            module(x)
        handle.remove()
        assert all(torch.equal(a, b) for a, b in zip(before, params, strict=True))
        with engine.at(family, {1: 1e-2}):
            assert torch.equal(module(x), expected)


@pytest.mark.parametrize("rounding_seed", [None, 5])
def test_one_launch_moves_all_parameters_as_one_each_does(rounding_seed: int | None) -> None:
    """Rates and decays of their own, sizes that fill no block, stochastic rounding: bit for bit."""
    sizes = (1, 3, 8191, 8192, 8193, 100_000)
    params = [theta(size, torch.bfloat16, size).cuda() for size in sizes]
    alone = [p.clone() for p in params]
    family = Gaussian(params)
    lr, decay = [0.1 * (i + 1) for i in range(6)], [0.5, 0.0, 0.1, 0.0, 0.0, 0.2]
    LossOracle(params, lambda: 0.0, family, Copies(params, []), rounding_seed=rounding_seed).move_(
        {3: 0.5, 2**50: -2.0}, lr, decay
    )
    for i, p in enumerate(alone):
        noise.shift(
            p,
            i,
            {3: -lr[i] * 0.5, 2**50: lr[i] * 2.0},
            decay=1 - lr[i] * decay[i],
            out=p,
            rounding_seed=rounding_seed,
        )
        assert torch.equal(p, params[i]), sizes[i]


def test_keys_of_all_parameters_are_the_keys_of_each() -> None:
    for seed in (0, 5, 2**63, 2**64 - 1, -3):
        assert seeds.keys(seed, 50).tolist() == [list(seeds.key(seed, i)) for i in range(50)]
