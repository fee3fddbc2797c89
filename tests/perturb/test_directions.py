"""Families: what they draw, what they keep, and that shifting is their direction added up."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from bszo.perturb import (
    ColumnSpace,
    Directions,
    Gaussian,
    Injected,
    LossOracle,
    LowRank,
    OuterProduct,
    Scaled,
    Subspace,
    Walk,
    Weighted,
    noise,
)


@pytest.fixture
def params() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(5, 7), (7,), (), (3, 2, 4), (0, 3)]
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


def families(params: list[Tensor]) -> dict[str, Directions]:
    curvature = [
        torch.rand(p.shape, generator=torch.Generator().manual_seed(1)) + 0.5 for p in params
    ]
    return {
        "gaussian": Gaussian(params),
        "rademacher": Gaussian(params, "rademacher"),
        "low-rank": LowRank(params, 2, 99),
        "scaled": Scaled(Gaussian(params), curvature),
        "column-space": ColumnSpace(params, 2, 99),
        "outer-product": OuterProduct(params, 2),
        "subspace": Subspace(params, 2, 99, scaled=True, square=True),
        "weighted": Weighted(Gaussian(params), [0.5, -1.0, 2.0, 0.0, 1.0]),
        "injected": Injected(
            params, lambda ps, seed: [torch.full(p.shape, float(seed)) for p in ps]
        ),
    }


@pytest.mark.parametrize(
    "family",
    [
        "gaussian",
        "rademacher",
        "low-rank",
        "column-space",
        "outer-product",
        "scaled",
        "subspace",
        "weighted",
        "injected",
    ],
)
def test_shift_is_the_direction_added_up(params: list[Tensor], family: str, size: str) -> None:
    tested = families(params)[family]
    for i, p in enumerate(params):
        theta = p.detach().double()
        expected = (
            0.5 * theta
            + 2.0 * tested.direction(3, i).double()
            - 0.1 * tested.direction(4, i).double()
        )
        torch.testing.assert_close(
            tested.shift(theta, i, {3: 2.0, 4: -0.1}, decay=0.5), expected, rtol=0, atol=1e-13
        )
        assert tested.direction(3, i).shape == p.shape
        assert torch.equal(tested(params, 3)[i], tested.direction(3, i)), (
            "a family is a directions= callable"
        )
    tested.release()
    rows = torch.tensor([4, 0])
    whole = tested.shift(params[0].detach(), 0, {3: 2.0, 4: -0.1})
    assert torch.equal(
        tested.shift_rows(params[0].detach(), 0, rows, {3: 2.0, 4: -0.1}), whole[rows]
    )


@pytest.mark.parametrize("family", ["gaussian", "scaled", "weighted"])
def test_rows_of_a_large_matrix_are_made_alone(
    params: list[Tensor], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An embedding's words in a batch: nothing of the whole matrix's size is made for them."""
    monkeypatch.setattr("bszo.perturb.directions.gaussian.KEEP_BELOW", 0)
    tested, rows = families(params)[family], torch.tensor([4, 0])
    whole = tested.shift(params[0].detach(), 0, {3: 2.0})

    def refused(*args: object) -> Tensor:
        raise AssertionError("the whole matrix was made")

    monkeypatch.setattr(Gaussian, "direction", refused)
    assert torch.equal(tested.shift_rows(params[0].detach(), 0, rows, {3: 2.0}), whole[rows])


def test_small_and_large_models_draw_the_same_bits(
    params: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Gaussian(params)
    monkeypatch.setattr("bszo.perturb.directions.gaussian.KEEP_BELOW", 0)
    large = Gaussian(params)
    assert small.small and not large.small
    for i, p in enumerate(params):
        assert torch.equal(small.direction(8, i), large.direction(8, i))
        for theta in (p.detach(), p.detach().to(torch.bfloat16), p.detach().double()):
            terms = {8: 1e-3, 9: 0.7}
            assert torch.equal(
                small.shift(theta, i, terms, decay=0.9), large.shift(theta, i, terms, decay=0.9)
            )


def test_a_large_model_keeps_no_direction(
    params: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bszo.perturb.directions.gaussian.KEEP_BELOW", 10)
    tested = Gaussian(params)
    oracle = LossOracle(params, lambda: 1.0, tested, Walk(params, "in-place"))
    oracle.loss({1: 0.1, 2: 0.2})
    oracle.move_({1: 0.1, 2: 0.2}, [0.1] * len(params), [0.0] * len(params))
    tested.direction(1, 0)
    assert tested._kept == {}


def test_a_small_model_forgets_after_the_step(params: list[Tensor]) -> None:
    for family in families(params).values():
        family.direction(1, 0)
        family.release()
        assert family._kept == {} and getattr(family, "base", family)._kept == {}


def test_injected_is_called_once_a_seed_and_checked(params: list[Tensor]) -> None:
    calls: list[int] = []

    def rule(ps: Sequence[Tensor], seed: int) -> list[Tensor]:
        calls.append(seed)
        return [torch.zeros(p.shape) for p in ps]

    tested = Injected(params, rule)
    for seed in (1, 2, 1):
        for i, p in enumerate(params):
            tested.shift(p.detach(), i, {seed: 1.0})
    assert calls == [1, 2]
    with pytest.raises(ValueError, match="shapes"):
        Injected(params, lambda ps, seed: [torch.zeros(1)]).direction(0, 0)


def test_low_rank_is_low_rank_and_its_basis_stays() -> None:
    params = [torch.empty(12, 9), torch.empty(4, 3, 5), torch.empty(6)]
    one, later, redrawn = LowRank(params, 2, 5), LowRank(params, 2, 5), LowRank(params, 2, 6)
    p, q, r = one.direction(1, 0), later.direction(2, 0), redrawn.direction(1, 0)
    assert torch.linalg.matrix_rank(p) == 2
    assert torch.linalg.matrix_rank(torch.cat([p, q])) == 2, (
        "rows stay in the span of V while the seed changes"
    )
    assert torch.linalg.matrix_rank(torch.cat([p, r])) == 4
    assert torch.linalg.matrix_rank(torch.cat([p, r], dim=1)) == 2, "U depends on the seed alone"
    assert one.direction(1, 1).shape == (4, 3, 5)
    assert torch.linalg.matrix_rank(one.direction(1, 1)).tolist() == [2] * 4, "a stack of matrices"
    folded = LowRank([torch.empty(4, 3, 2)], 2, 5).direction(1, 0)
    assert torch.linalg.matrix_rank(folded.view(4, 6)) == 2, "a kernel of 2 is folded"
    assert torch.equal(one.direction(1, 2), redrawn.direction(1, 2)), "a vector has no basis"
    other = LowRank(params, 2, 5, stream=1)
    assert (
        not torch.equal(other.direction(1, 0), p)
        and torch.linalg.matrix_rank(torch.cat([p, other.direction(1, 0)])) == 2
    ), "another stream draws another U in the same V"


def test_a_vector_s_compiled_shift_is_along_its_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a large model takes it."""
    monkeypatch.setattr("bszo.perturb.directions.factored.COMPILE_FROM", 0)
    theta = torch.zeros(300)
    tested = LowRank([theta], 2, 5, stream=1)
    torch.testing.assert_close(tested.shift(theta, 0, {3: -0.1}), -0.1 * tested.direction(3, 0))


def test_low_rank_moments() -> None:
    """E[P] = 0 and E|P|^2 = r m n; a vector's entries are N(0, 1)."""
    params = [torch.empty(5, 4), torch.empty(7)]
    draws = [LowRank(params, 3, 7000 + seed)(params, seed) for seed in range(1000)]
    matrices = torch.stack([d[0] for d in draws]).double()
    assert float(matrices.square().sum(dim=(1, 2)).mean()) == pytest.approx(3 * 5 * 4, rel=0.12)
    assert float(matrices.mean()) == pytest.approx(0.0, abs=4.5 * (3 / 20_000) ** 0.5)
    assert float(torch.stack([d[1] for d in draws]).var()) == pytest.approx(1.0, abs=0.03)


def test_scaled_follows_its_curvature() -> None:
    params, curvature = [torch.empty(50)], [torch.full((50,), 4.0)]
    tested = Scaled(Gaussian(params), curvature)
    z = noise.values(torch.Size((50,)), 0, 3)
    assert torch.equal(tested.direction(3, 0), z * 0.5)
    curvature[0].fill_(16.0)
    assert torch.equal(tested.direction(3, 0), z * 0.25), "no stale copy"


def test_move_is_one_pass_with_one_rounding_and_its_own_rates() -> None:
    params = [torch.randn(300).to(torch.bfloat16), torch.randn(40, dtype=torch.float64)]
    before, tested = [p.clone() for p in params], Gaussian(params)
    calls: list[int] = []
    shift = tested.shift
    tested.shift = lambda theta, index, terms, **kw: (
        calls.append(index) or shift(theta, index, terms, **kw)
    )
    LossOracle(params, lambda: 0.0, tested, Walk(params, "two-leg")).move_(
        {1: 2.0, 2: -1.0}, [0.1, 0.2], [0.0, 0.5]
    )
    z = [[noise.values(p.shape, i, s).double() for s in (1, 2)] for i, p in enumerate(before)]
    assert calls == [0, 1]
    expected = before[0].double() - 0.1 * (2 * z[0][0] - z[0][1])
    assert (
        float((params[0].double() - expected).abs().max()) <= float(expected.abs().max()) * 2.0**-8
    )
    expected = before[1] - 0.2 * (2 * z[1][0] - z[1][1] + 0.5 * before[1])
    torch.testing.assert_close(params[1], expected, rtol=0, atol=1e-14)
