"""Every wrapper around every family: the whole interface is forwarded, and means the same."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from bszo import LOZOM
from bszo.perturb import (
    Block,
    Blocks,
    ColumnSpace,
    Directions,
    Gaussian,
    Injected,
    LowRank,
    Mask,
    Numbered,
    RankOne,
    Scaled,
    Sparse,
    Subspace,
    Unpadded,
    Weighted,
    padding_rows,
)
from bszo.perturb.directions.wrapped import Wrapped, unwrapped

SHAPES = ((48, 64), (7,), (6, 10, 9), (5, 3, 2), ())
MAKE = {
    "gaussian": lambda p, _: Gaussian(p),
    "rademacher": lambda p, _: Gaussian(p, "rademacher"),
    "injected": lambda p, _: Injected(p, lambda ps, seed: [torch.full_like(q, seed) for q in ps]),
    "low rank": lambda p, basis: LowRank(p, 2, basis),
    "column space": lambda p, basis: ColumnSpace(p, 4, basis),
    "subspace": lambda p, basis: Subspace(p, 4, basis, scaled=True, square=True),
}
COORDINATES = {  # of the parameters of SHAPES
    "low rank": ((48, 2), (7,), (6, 10, 2), (5, 2), ()),
    "column space": ((4, 64), (7,), (6, 4, 9), (4, 6), ()),
    "subspace": ((4, 4), (7,), (6, 4, 4), (4, 4), ()),
}


def sparse(base: Directions) -> Directions:
    return Sparse(base, Mask(base.params, 3, [p.numel() / 2 for p in base.params]))


WRAP: dict[str, Callable[[Directions], Directions]] = {
    "sparse": sparse,
    "blocks": lambda base: Blocks(base, [Block("all", tuple(range(len(SHAPES))))]),
    "scaled": lambda base: Scaled(base, [torch.full_like(p, 4.0) for p in base.params]),
    "weighted": lambda base: Weighted(base, [0.5, 2.0, 3.0, 4.0, 5.0]),
    "unpadded": lambda base: Unpadded(base, {0: 2}),
    "numbered": lambda base: Numbered(base, list(range(len(SHAPES)))),
    "sparse in blocks": lambda base: WRAP["blocks"](sparse(base)),
    "unpadded, sparse": lambda base: sparse(Unpadded(base, {0: 2})),
}


def params() -> list[Tensor]:
    return [torch.randn(shape, generator=torch.Generator().manual_seed(1)) for shape in SHAPES]


@pytest.fixture(params=MAKE)
def family(request: pytest.FixtureRequest) -> tuple[str, Callable[[int], Directions]]:
    tensors = params()
    return request.param, lambda basis: MAKE[request.param](tensors, basis)


@pytest.fixture(params=WRAP)
def wrap(request: pytest.FixtureRequest) -> Callable[[Directions], Directions]:
    return WRAP[request.param]


Made = tuple[str, Callable[[int], Directions]]
Wrap = Callable[[Directions], Directions]


def test_coordinates_are_as_short_as_the_familys(family: Made, wrap: Wrap) -> None:
    """LOZO-M's momentum of a 48 x 64 matrix is 48 x 2, masked or not."""
    name, make = family
    base, wrapped = make(1), wrap(make(1))
    for i in range(len(SHAPES)):
        wanted = COORDINATES.get(name, SHAPES)[i]
        assert base.coordinates(5, i).shape == wrapped.coordinates(5, i).shape == wanted
        assert wrapped.compressed(i) == base.compressed(i)


def test_coordinates_expand_to_the_direction(family: Made, wrap: Wrap) -> None:
    """...and linearly: two directions' sum has their coordinates' sum."""
    _, make = family
    wrapped = wrap(make(1))
    for i, shape in enumerate(SHAPES):
        a, b = (wrapped.coordinates(seed, i) for seed in (5, 6))
        z = wrapped.direction(5, i) - 3 * wrapped.direction(6, i)
        assert wrapped.expand(a, i).shape == shape
        torch.testing.assert_close(wrapped.expand(a - 3 * b, i), z, rtol=1e-5, atol=1e-5)


def test_factors_are_those_of_the_direction(family: Made, wrap: Wrap) -> None:
    """Also of a family that is wrapped, where that has any; else it has none to give."""
    wrapped = wrap(family[1](3))
    for i in range(len(wrapped.params)):
        pair = wrapped.factors(5, i)
        assert (pair is not None) == wrapped.has_factors(i)
        if pair is not None:
            torch.testing.assert_close(pair[0] @ pair[1], wrapped.direction(5, i))


def test_carry_is_the_familys_between_wrapped_and_bare(family: Made, wrap: Wrap) -> None:
    _, make = family
    old, new = make(1), make(2)
    for i in range(len(SHAPES)):
        held = wrap(old).coordinates(5, i)
        carried = new.carry(held, i, old)
        assert carried.shape == held.shape
        assert torch.equal(wrap(new).carry(held, i, old), carried)
        assert torch.equal(wrap(new).carry(held, i, wrap(old)), carried)


def test_every_way_to_shift_is_along_the_direction(family: Made, wrap: Wrap) -> None:
    _, make = family
    wrapped = wrap(make(1))
    terms, decay = {5: 0.25, 6: -3.0}, 0.75
    rows = torch.tensor([5, 2, 0, 2])
    moved = [p.clone() for p in wrapped.params]
    for i, p in enumerate(wrapped.params):
        z = sum(c * wrapped.direction(seed, i) for seed, c in terms.items())
        expected = decay * p + z
        assert wrapped.own(i, terms) == terms
        torch.testing.assert_close(
            wrapped.shift(p, i, terms, decay=decay), expected, rtol=1e-5, atol=1e-5
        )
        moved[i] = expected
        if p.ndim == 2:
            torch.testing.assert_close(
                wrapped.shift_rows(p, i, rows, terms), (p + z)[rows], rtol=1e-5, atol=1e-5
            )
    count = len(wrapped.params)
    wrapped.shift_all_([terms] * count, [decay] * count, [None] * count)
    for p, expected in zip(wrapped.params, moved, strict=True):
        torch.testing.assert_close(p, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("length", [0.0, 1e-30])
def test_a_curvature_whose_square_is_zero_leaves_z(length: float) -> None:
    family = RankOne(Gaussian(params()[:1]), [torch.full((64,), length)], 0.1)
    assert torch.equal(family.direction(5, 0), family.base.direction(5, 0))


class Counted(Gaussian):
    """A family that can be shifted by numbers, as on a GPU."""

    def scalars(self, terms):  # type: ignore[no-untyped-def]
        return "numbers"


def test_a_base_familys_numbers_are_not_a_wrappers(wrap: Wrap) -> None:
    """Numbers that know no mask, curvature, weight or block would shift along z itself."""
    wrapped = wrap(Counted(params()))
    if isinstance(wrapped, Unpadded):
        assert wrapped.scalars({5: 1.0}) == "numbers"
        assert [wrapped.by_scalars(i) for i in range(3)] == [False, True, True]
    else:
        assert wrapped.scalars({5: 1.0}) is None


def test_release_and_singly_reach_the_family(wrap: Wrap) -> None:
    base = Gaussian(params())
    wrapped = wrap(base)
    z = wrapped.direction(5, 0)
    single = wrapped.singly()
    assert torch.equal(single.direction(5, 0), z)
    inner = unwrapped(single)
    inner = inner.base if isinstance(inner, Numbered) else inner
    assert isinstance(inner, Gaussian) and not inner.small and inner._kept == {}
    assert base.small  # the family that is wrapped is left as it was
    base.direction(7, 0)
    if not isinstance(wrapped, Blocks):  # which wraps a family of its own
        wrapped.release()
        assert base._kept == {}


def test_a_wrapper_overrides_nothing_that_it_could_forget() -> None:
    """Whatever Directions offers is forwarded by Wrapped, or rests on `direction` alone."""
    offered = {name for name in vars(Directions) if not name.startswith("_")}
    resting = {"make", "shift", "shift_all_", "shift_rows", "scalars", "by_scalars"}
    assert offered - set(vars(Wrapped)) == resting


def test_blocks_leave_another_blocks_coordinates_at_zero() -> None:
    family = Blocks(LowRank(params()[:2], 2, 1), [Block("a", (0,)), Block("b", (1,))])
    assert family.coordinates(family.seed(10, 0), 0).abs().sum() > 0
    assert torch.equal(family.coordinates(family.seed(10, 1), 0), torch.zeros(48, 2))


def test_lozo_m_keeps_a_short_momentum_under_a_mask() -> None:
    """...across a redraw of V and of the mask; and what it moves is inside the mask."""
    weight = nn.Parameter(torch.randn(48, 64, generator=torch.Generator().manual_seed(0)))
    optimizer = LOZOM([weight], lr=1e-2, eps=1e-2, interval=2)
    optimizer.restrict(sparsity=0.5, mask_interval=3)
    for _ in range(5):
        before = weight.detach().clone()
        optimizer.step(lambda: weight.square().sum())
        assert optimizer.state[weight]["momentum"].shape == (48, 2)
        assert int((weight != before).sum()) <= 48 * 64 / 2


def network(tied: bool) -> nn.Module:
    net = nn.Sequential(
        nn.Embedding(9, 4, padding_idx=2), nn.Flatten(), nn.Linear(4, 9, bias=False)
    )
    if tied:
        net[2].weight = net[0].weight
    return net


@pytest.mark.parametrize(("tied", "rows"), [(False, {0: 2}), (True, {})])
def test_padding_rows(tied: bool, rows: dict[int, int]) -> None:
    """An output layer that shares the weight gives its padding row a gradient."""
    net = network(tied)
    found: Sequence[Tensor] = list(net.parameters())
    assert padding_rows(found, net) == rows
    (net(torch.arange(9)[:, None]) - 1).pow(2).sum().backward()
    assert bool(found[0].grad[2].any()) == (not rows)  # type: ignore[index]
    assert padding_rows(found, None) == {}
    assert padding_rows([found[0]], nn.Embedding(3, 2)) == {}


def test_only_the_weight_of_an_embedding_has_a_padding_row() -> None:
    """...and of one weight in two embeddings, the row that stands for no token in both."""
    words: nn.Module = nn.Embedding(9, 4, padding_idx=2)
    words.register_parameter("scale", nn.Parameter(torch.ones(9)))
    assert padding_rows(list(words.parameters()), words) == {0: 2}
    for row, rows in ((2, {0: 2}), (3, {}), (None, {})):
        other = nn.Embedding(9, 4, padding_idx=row)
        other.weight = words.weight
        assert padding_rows([words.weight], nn.ModuleList([words, other])) == rows


def test_a_padding_row_decays_as_the_others_do() -> None:
    theta = torch.randn(6, 4).bfloat16()
    family = Unpadded(Gaussian([theta]), {0: 3})
    whole = Gaussian([theta]).shift(theta, 0, {}, decay=0.9, rounding_seed=5)
    assert torch.equal(family.shift(theta, 0, {4: 1.0}, decay=0.9, rounding_seed=5)[3], whole[3])
    still = theta.clone()
    family.shift_all_([{4: 1.0}], [0.9], [5])
    assert torch.equal(theta[3], whole[3]) and not torch.equal(theta[2], still[2])
