"""A large matrix shifted by rows, and rows alone, are what the dense product says; no copy of it is
made."""

from typing import Any

import pytest
import torch
from torch import Tensor

from bszo.perturb import ColumnSpace, Directions, LowRank, OuterProduct, Subspace
from bszo.perturb.directions import factored

FAMILIES: dict[str, Any] = {
    "low rank": lambda params: LowRank(params, 3, 7),
    "column space": lambda params: ColumnSpace(params, 4, 7),
    "outer product": lambda params: OuterProduct(params, 3),
    "subspace": lambda params: Subspace(params, 4, 7, scaled=True, square=True),
}
TERMS = {11: 0.3, 12: -0.2}


@pytest.fixture(params=list(FAMILIES))
def make(request: pytest.FixtureRequest) -> Any:
    return FAMILIES[request.param]


def dense(family: Directions, theta: Tensor, decay: float = 1.0) -> Tensor:
    return decay * theta.double() + sum(
        c * family.direction(seed, 0).double() for seed, c in TERMS.items()
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_by_rows_is_the_product(
    make: Any, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(factored, "KEEP_BELOW", 0)
    monkeypatch.setattr(factored, "AT_ONCE", 100)  # seven blocks of rows, the last one short
    theta = torch.linspace(-1, 1, 37 * 18).reshape(37, 18).to(dtype)
    family = make([theta])
    wide = {torch.float32: 1e-6, torch.float64: 1e-6, torch.bfloat16: 1e-2}[dtype]
    moved = family.shift(theta, 0, TERMS, decay=0.9)
    torch.testing.assert_close(moved.double(), dense(family, theta, 0.9), rtol=wide, atol=wide)
    rows = torch.tensor([36, 0, 5])
    torch.testing.assert_close(
        family.shift_rows(theta, 0, rows, TERMS).double(),
        dense(family, theta)[rows],
        rtol=wide,
        atol=wide,
    )
    at = theta.clone()
    assert family.shift(at, 0, TERMS, decay=0.9, out=at) is at and torch.equal(at, moved)


def test_a_matrix_that_is_taken_in_another_shape_is_made_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(factored, "KEEP_BELOW", 0)
    theta = torch.ones(3, 12)  # 6 x 6 to a subspace of rank 4
    family = FAMILIES["subspace"]([theta])
    assert family.factors(11, 0) is None
    torch.testing.assert_close(
        family.shift(theta, 0, TERMS).double(), dense(family, theta), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
@pytest.mark.parametrize("fused", [False, True])
def test_a_matrix_without_elements_stays_one(shape: tuple[int, int], fused: bool) -> None:
    theta = torch.empty(shape)
    family = LowRank([theta], 2, 7)
    family.small, family.fused = False, fused
    assert family.shift(theta, 0, TERMS).shape == shape


def test_by_rows_rounds_stochastically_as_the_whole_does(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    theta = torch.linspace(-1, 1, 37 * 18).reshape(37, 18).bfloat16()
    whole = make([theta]).shift(theta, 0, TERMS, rounding_seed=5)
    monkeypatch.setattr(factored, "KEEP_BELOW", 0)
    monkeypatch.setattr(factored, "AT_ONCE", 100)
    by_rows = make([theta]).shift(theta, 0, TERMS, rounding_seed=5)
    assert (by_rows == whole).float().mean() > 0.99  # an ulp of fp32 may carry a value across
    assert not torch.equal(by_rows, make([theta]).shift(theta, 0, TERMS, rounding_seed=6))


@pytest.mark.parametrize("rounding_seed", [None, 5])
def test_nothing_as_large_as_the_matrix_is_made(
    make: Any, rounding_seed: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    theta = torch.zeros(5000, 1000, dtype=torch.bfloat16)
    family, sizes = make([theta]), []
    product = factored.product

    def counted(left: Tensor, right: Tensor) -> Tensor:
        made = product(left, right)
        sizes.append(made.numel())
        return made

    family.shift_rows(theta, 0, torch.tensor([1]), TERMS)  # a subspace's basis is made here
    monkeypatch.setattr(factored, "product", counted)
    family.shift(theta, 0, TERMS, out=theta, rounding_seed=rounding_seed)
    assert sum(sizes) == theta.numel() and max(sizes) <= factored.AT_ONCE
    sizes.clear()
    family.shift_rows(theta, 0, torch.tensor([1, 2]), TERMS)
    assert sizes == [2 * 1000]


@pytest.mark.parametrize("keep_below", [0, 4_000_000])
def test_an_autocast_does_not_round_a_direction(
    make: Any, keep_below: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(factored, "KEEP_BELOW", keep_below)
    theta = torch.zeros(30, 20)
    family = make([theta])
    expected = family.shift(theta, 0, TERMS), family.direction(11, 0)
    with torch.autocast("cpu", torch.bfloat16):
        fresh = make([theta])  # a subspace keeps its basis
        assert torch.equal(fresh.shift(theta, 0, TERMS), expected[0])
        assert torch.equal(fresh.direction(11, 0), expected[1])


@pytest.mark.parametrize("kept", ["of a small model", "small factors"])
def test_factors_are_kept_for_a_step_and_are_the_noise(
    kept: str, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    theta = torch.zeros(9, 8)
    monkeypatch.setattr(factored, "KEEP_PIECE" if kept == "of a small model" else "KEEP_BELOW", 0)
    family = make([theta])
    first = family.direction(11, 0)
    monkeypatch.setattr(factored, "values", None)  # nothing is made again
    assert torch.equal(family.direction(11, 0), first)
    family.release()
    with pytest.raises(TypeError):
        family.direction(11, 0)
    monkeypatch.undo()
    for limit in ("KEEP_BELOW", "KEEP_PIECE"):
        monkeypatch.setattr(factored, limit, 0)
    large = make([theta])
    assert torch.equal(large.direction(11, 0), first)
    assert not large._made
