"""Bases of linear layers' inputs: their span, and layers that run twice or not at all."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bszo.perturb import InputBases, InputSpan


def numbers(module: nn.Module) -> dict[int, int]:
    return {id(p): i for i, p in enumerate(module.parameters())}


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def captured(basis: Tensor, h: Tensor) -> float:
    """Share of |H|^2 that lies in the basis; the columns of H are inputs."""
    return float((basis.mT.double() @ h.double()).square().sum() / h.double().square().sum())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_basis_is_that_of_the_strongest_inputs(dtype: torch.dtype) -> None:
    """Orthonormal, and after enough rounds the first singular vectors of H."""
    layer = nn.Linear(12, 5).to(dtype)
    strength = torch.tensor([8.0, 4.0, 2.0] + [0.1] * 9)
    axes = torch.linalg.qr(draw(12, 12)).Q
    x = ((draw(2, 9, 12) * strength) @ axes.mT).to(dtype)
    bases = InputBases(numbers(layer), layer, rank=3, rounds=8)
    with bases.watched(5):
        layer(x)
    a, h = bases.found[0], x.reshape(-1, 12).mT.to(torch.float64)
    assert a.dtype == torch.promote_types(dtype, torch.float32) and a.shape == (12, 3)
    torch.testing.assert_close(a.mT @ a, torch.eye(3, dtype=a.dtype), rtol=0, atol=1e-5)
    best = torch.linalg.svd(h).U[:, :3]
    assert captured(a, h) == pytest.approx(captured(best, h), rel=1e-6)
    bases.clear()
    assert not bases.found


def test_a_layer_that_runs_twice_spans_both_inputs() -> None:
    layer = nn.Linear(6, 2)
    first, second = torch.zeros(4, 6), torch.zeros(3, 6)
    first[:, :2], second[:, 4] = draw(4, 2), draw(3)
    bases = InputBases(numbers(layer), layer, rank=3, rounds=6)
    with bases.watched(1):
        layer(first)
        layer(input=second)
    both = torch.cat([first, second]).mT
    assert captured(bases.found[0], both) == pytest.approx(1, abs=1e-5)


def test_a_layer_that_runs_on_fewer_tokens_than_the_rank_has_a_basis_still() -> None:
    """A^T H H^T A has eigenvalues that are 0, and in fp32 may be less."""
    layer, x = nn.Linear(12, 5), draw(3, 12)
    bases = InputBases(numbers(layer), layer, rank=4, rounds=3)
    for seed in range(9):
        with bases.watched(seed):
            for token in x:
                layer(token)
        assert captured(bases.found[0], x.mT) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("tokens", [[5], [2, 3]])
def test_a_kept_basis_follows_oja_s_rule(tokens: list[int]) -> None:
    """In one call, or in two, the first of whose inputs lie in the basis; the kept one stays."""
    layer, rate = nn.Linear(6, 2).double(), 0.3
    kept = {0: torch.linalg.qr(draw(6, 3).double()).Q}
    before = kept[0].clone()
    x = draw(5, 6).double()
    x[:2] = x[:2] @ before @ before.mT
    bases = InputBases(numbers(layer), layer, rank=3, rounds=4)
    expected = torch.linalg.qr(before + rate * x.mT @ x @ before / 5).Q
    with bases.watched(1, kept, rate):
        for part in x.split(tokens):
            layer(part)
    found = bases.found[0]
    torch.testing.assert_close(found @ found.mT, expected @ expected.mT)
    turned = before + rate * x.mT @ x @ before / 5
    assert bool(((found.mT @ turned).diagonal() > 0).all()), "a sign of each column's own"
    assert torch.equal(kept[0], before)


def test_oja_s_basis_turns_to_what_many_batches_span() -> None:
    """One input a batch, from a plane: a batch shows a line of it, all batches the plane."""
    layer = nn.Linear(8, 2)
    plane = torch.linalg.qr(draw(8, 2)).Q
    bases, kept = InputBases(numbers(layer), layer, rank=2, rounds=3), {}
    generator = torch.Generator().manual_seed(0)
    for step in range(60):
        with bases.watched(step, kept, 0.3):
            layer((plane @ torch.randn(2, generator=generator))[None])
        kept = dict(bases.found)
    assert captured(kept[0], plane) == pytest.approx(1, abs=0.01)


def test_whose_weights_have_bases() -> None:
    """No embedding's, tied or not; no convolution's; none of a layer that did not run."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(7, 4)
            self.up, self.idle = nn.Linear(4, 4), nn.Linear(4, 4)
            self.head = nn.Linear(4, 7, bias=False)
            self.head.weight = self.words.weight
            self.conv = nn.Conv1d(4, 4, 1)

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.conv(self.up(self.words(ids)).mT).mT)

    model = Model()
    bases = InputBases(numbers(model), model, rank=2, rounds=1)
    names = [name for name, _ in model.named_parameters()]
    assert {names[i] for i in bases.layers.values()} == {"up.weight", "idle.weight"}
    with bases.watched(0):
        model(torch.tensor([[1, 2, 3]]))
    assert {names[i] for i in bases.found} == {"up.weight"}
    assert not model.up._forward_pre_hooks, "no hook is left"


@pytest.mark.parametrize("scaled", [True, False])
def test_directions_lie_in_the_span_and_have_a_gaussian_s_length(scaled: bool) -> None:
    params = [torch.empty(400, 30), torch.empty(50)]
    a = torch.linalg.qr(draw(30, 2)).Q
    family = InputSpan(params, {0: a}, scaled=scaled, others=True)
    z = family.direction(3, 0)
    torch.testing.assert_close(z @ a @ a.mT, z, rtol=1e-5, atol=1e-4)
    length = float(z.square().sum())
    assert length == pytest.approx(400 * 30 if scaled else 400 * 2, rel=0.15)
    torch.testing.assert_close(family.expand(family.coordinates(3, 0), 0), z)
    assert float(family.direction(3, 1).std()) == pytest.approx(1, abs=0.4)


@pytest.mark.parametrize("large", [False, True])
def test_shift_is_the_direction_added_up(large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one piece and in parts; with others="none" what has no basis is passed by."""
    if large:
        monkeypatch.setattr("bszo.perturb.directions.factored.KEEP_BELOW", 0)
        monkeypatch.setattr("bszo.perturb.directions.factored.AT_ONCE", 21)
    params: list[Any] = [draw(9, 6), draw(8, 3), draw(5)]
    a, terms = torch.linalg.qr(draw(6, 2)).Q, {3: 2.0, 4: -0.5}
    for others in (True, False):
        family = InputSpan(params, {0: a}, scaled=True, others=others)
        for i, p in enumerate(params):
            z = 2.0 * family.direction(3, i) - 0.5 * family.direction(4, i)
            shifted = family.shift(p, i, terms, decay=0.5)
            torch.testing.assert_close(shifted, 0.5 * p + z, rtol=1e-5, atol=1e-5)
            assert bool(z.any()) == bool(family.own(i, terms)) == (others or i == 0)
        for i in (0, 1):
            rows = torch.tensor([4, 0])
            whole = family.shift(params[i], i, terms)
            torch.testing.assert_close(family.shift_rows(params[i], i, rows, terms), whole[rows])
