"""Stacked matrices, such as the experts of a mixture: each has factors of its own."""

from typing import Any

import pytest
import torch
from torch import Tensor

from bszo.perturb import LowRank, Subspace
from bszo.perturb.directions import factored

MAKE: dict[str, Any] = {
    "low rank": lambda p, basis: LowRank(p, 2, basis),
    "subspace": lambda p, basis: Subspace(p, 2, basis, scaled=True, square=True),
}


@pytest.fixture(params=MAKE)
def make(request: pytest.FixtureRequest) -> Any:
    return MAKE[request.param]


def test_an_expert_has_its_own_factors(make: Any) -> None:
    """Sixteen experts: the directions of all have rank 2 each, and 32 together."""
    family = make([torch.zeros(16, 20, 12)], 1)
    z = family.direction(3, 0).double()
    assert [int(torch.linalg.matrix_rank(expert, rtol=1e-5)) for expert in z] == [2] * 16
    rows = z.permute(1, 0, 2).reshape(20, -1)  # all experts read the same inputs
    stacked = torch.cat([z.mean(0)])
    assert int(torch.linalg.matrix_rank(rows, rtol=1e-5)) == 20  # no two share a column space
    assert int(torch.linalg.matrix_rank(stacked, rtol=1e-5)) == 12


def test_the_estimate_is_unbiased_for_every_expert(make: Any) -> None:
    """E[<G, P> P] is G (times the rank for U V^T), over seeds and bases."""
    gradient = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    mean, squares, count = torch.zeros_like(gradient), 0.0, 1500
    for seed in range(count):
        z = make([gradient], 1000 + seed).direction(seed, 0)
        mean += (gradient * z).sum() * z / count
        squares += float(z.square().sum()) / count
    rank = 2 if make is MAKE["low rank"] else 1
    assert abs(squares / gradient.numel() - rank) < 0.1
    assert float((mean / rank - gradient).norm() / gradient.norm()) < 0.35
    assert float((mean / rank * gradient).sum() / gradient.square().sum()) == pytest.approx(
        1, abs=0.1
    )


def test_a_momentum_is_projected_expert_by_expert() -> None:
    params = [torch.zeros(3, 6, 5)]
    old, new = (Subspace(params, 2, basis, scaled=False, square=True) for basis in (1, 2))
    held = old.coordinates(4, 0)
    carried = new.expand(new.carry(held, 0, old), 0)
    whole = old.expand(held, 0)
    for i in range(3):
        u, v = (factor[i] for factor in new.basis(0))
        torch.testing.assert_close(carried[i], u @ u.T @ whole[i] @ v.T @ v)
    low_old, low_new = (LowRank(params, 2, basis) for basis in (1, 2))
    held = low_old.coordinates(4, 0)
    for i, part in enumerate(low_new.carry(held, 0, low_old)):
        v_old, v = low_old.basis(0)[i], low_new.basis(0)[i]
        torch.testing.assert_close(part, held[i] @ v_old.T @ v / 5)


def test_a_large_stack_is_shifted_some_experts_at_a_time(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    theta = torch.randn(7, 6, 5, generator=torch.Generator().manual_seed(0))
    terms = {11: 0.5, 12: -2.0}
    whole = make([theta], 1).shift(theta, 0, terms, decay=0.9)
    seen: list[int] = []
    add = factored.add

    def counted(part: Tensor, *rest: Any, **options: Any) -> Tensor:
        seen.append(part.shape[0])
        return add(part, *rest, **options)

    monkeypatch.setattr(factored, "add", counted)
    monkeypatch.setattr(factored, "KEEP_BELOW", 0)
    monkeypatch.setattr(factored, "AT_ONCE", 60)
    torch.testing.assert_close(make([theta], 1).shift(theta, 0, terms, decay=0.9), whole)
    assert seen == [2, 2, 2, 1]


def test_a_small_kernel_is_folded_as_it_was() -> None:
    """A convolution of width 2 has nothing for rank 2 to factor: channels x (inputs, width)."""
    family = LowRank([torch.zeros(8, 6, 2)], 2, 1)
    assert family.coordinates(3, 0).shape == (8, 2) and family.basis(0).shape == (12, 2)
    assert Subspace([torch.zeros(8, 6, 2)], 2, 1, scaled=True, square=True).basis(0)[0].shape == (
        8,
        2,
    )
