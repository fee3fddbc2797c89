"""ZO-Muon against dense float64 algebra: its basis, its orthogonalised step, its published
redraws."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bszo import ZOMuon
from bszo.errors import OptimError
from bszo.optim.orthogonal import LENGTH, orthogonalised
from bszo.perturb import ColumnSpace, mix64, noise
from tests.optim.test_reference import flat, make_loss, parameters

EPS, LR, DECAY, SEED, INTERVAL, RANK, COUNT = 1e-3, 0.02, 0.4, 11, 3, 2, 3
# of `parameters()`, folded; None where there are no two axes
MATRICES = [(3, 4), None, None, (2, 6)]


def basis(index: int, m: int, seed: int) -> Tensor:
    """The Q of a Gaussian whose R has a positive diagonal: A R^-1 with R from Cholesky."""
    a = noise.values(torch.Size((m, RANK)), index, seed).double()
    return a @ torch.linalg.inv(torch.linalg.cholesky(a.T @ a).T)


def msign(g: Tensor, update: str) -> Tensor:
    if not g.any():
        return g
    if update == "norm":
        return 0.7 * len(g) ** 0.5 * g / g.square().sum().sqrt()
    values, vectors = torch.linalg.eigh(g @ g.T)
    s = values.clamp(min=0).sqrt()
    if update == "exact":
        scale = 1 / s
    else:
        x = s / (s.square().sum().sqrt() + 1e-7)
        for _ in range(5):
            x = 3.4445 * x - 4.7750 * x**3 + 2.0315 * x**5
        scale = x / s
    return vectors @ torch.diag(scale) @ vectors.T @ g


@pytest.mark.parametrize(
    ("update", "redraw", "vector_lr"),
    [
        ("newton-schulz", "once", None),
        ("exact", "each-probe", 3e-3),
        ("norm", "each-probe", None),
    ],
)
def test_zo_muon(update: Any, redraw: Any, vector_lr: float | None) -> None:
    """Seven steps, two redraws; as run, each probe of a redraw step has a P of its own."""
    params = parameters()
    optimizer = ZOMuon(
        params,
        lr=LR,
        eps=EPS,
        num_directions=COUNT,
        rank=RANK,
        interval=INTERVAL,
        update=update,
        redraw=redraw,
        vector_lr=vector_lr,
        weight_decay=DECAY,
        seed=SEED,
    )
    theta, loss, reference_loss = flat(params), make_loss(), make_loss()

    def whole(parts: list[Tensor], bases: list[Any]) -> Tensor:
        expanded = [u if p is None else p @ u for u, p in zip(parts, bases, strict=True)]
        return torch.cat([part.reshape(-1) for part in expanded])

    def bases_of(seed: int) -> list[Any]:
        return [
            None if shape is None else basis(i, shape[0], seed) for i, shape in enumerate(MATRICES)
        ]

    for step in range(7):
        optimizer.step(lambda: loss(flat(params)))
        draw = step // INTERVAL
        last = bases_of(mix64(SEED, draw, -2))
        own = redraw == "each-probe" and step % INTERVAL == 0
        f_0, total = reference_loss(theta), None
        for k in range(COUNT):
            u = [
                noise.values(
                    torch.Size((RANK, shape[1])) if shape else p.shape, i, mix64(SEED, step, k)
                ).double()
                for i, (shape, p) in enumerate(zip(MATRICES, params, strict=True))
            ]
            at = bases_of(mix64(SEED, draw, -2, k)) if own and k < COUNT - 1 else last
            y = (reference_loss(theta + EPS * whole(u, at)) - f_0) / EPS
            part = [y / COUNT * one for one in u]
            total = part if total is None else [a + b for a, b in zip(total, part, strict=True)]
        assert total is not None
        moves = [
            vector_lr / LR * g
            if shape is None and vector_lr is not None
            else msign(g if shape else g.reshape(1, -1), update).reshape(g.shape)
            for g, shape in zip(total, MATRICES, strict=True)
        ]
        theta = theta - LR * (whole(moves, last) + DECAY * theta)
        torch.testing.assert_close(flat(params), theta, rtol=1e-5, atol=2e-6)


def test_a_rank_is_clipped_to_an_adapter() -> None:
    family = ColumnSpace([torch.zeros(8, 30), torch.zeros(30, 8), torch.zeros(5, 9, 7)], 16, 1)
    assert [family.basis(i).shape for i in range(3)] == [(8, 8), (30, 8), (5, 5)]
    assert [tuple(family.coordinates(3, i).shape) for i in range(3)] == [(8, 30), (8, 8), (5, 63)]
    p = family.basis(1)
    torch.testing.assert_close(p.T @ p, torch.eye(8), rtol=0, atol=1e-5)


@pytest.mark.parametrize("update", ["newton-schulz", "exact", "norm"])
def test_what_has_no_slope_does_not_move(update: Any) -> None:
    assert not orthogonalised(torch.zeros(3, 2, 5), update).any()
    assert orthogonalised(torch.zeros(0, 4), update).shape == (0, 4)
    p = nn.Parameter(torch.ones(4, 5))
    ZOMuon([p], update=update, rank=2).step(lambda: 1.0)
    assert torch.equal(p.detach(), torch.ones(4, 5))


def test_a_direction_that_is_not_there_is_not_made_up() -> None:
    g = torch.outer(torch.arange(1.0, 4), torch.arange(1.0, 6))
    torch.testing.assert_close(orthogonalised(g, "exact"), g / g.norm(), rtol=0, atol=1e-6)


def test_in_float16_a_steep_loss_moves_as_far_as_a_flat_one() -> None:
    """|G|_F is far beyond float16's 65504, and an autocast around the step changes no bit."""
    moved = []
    for scale, cast in ((1.0, False), (1e6, False), (1e6, True)):
        p = nn.Parameter(torch.full((6, 10), 0.5, dtype=torch.float16))
        optimizer = ZOMuon([p], lr=0.2, eps=0.05, rank=3)
        with torch.autocast("cpu", torch.bfloat16, enabled=cast):
            optimizer.step(lambda p=p, scale=scale: scale * p.detach().double().square().sum())
        moved.append(p.detach().float() - 0.5)
    assert float(moved[1].norm()) == pytest.approx(0.2 * 3**0.5, rel=0.35)
    torch.testing.assert_close(moved[0], moved[1], rtol=0, atol=1e-3)
    assert torch.equal(moved[1], moved[2])


class Tower(nn.Module):
    """An embedding, two repeated layers and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(7, 4)
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
        self.head = nn.Linear(4, 3)

    def forward(self) -> Tensor:
        x = self.words(torch.arange(7))
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.head(x).square().mean()


def test_embeddings_and_head_move_as_vectors_where_they_are_asked_to() -> None:
    """By lr G / |G|_F with Gaussian G, of full rank; the layers by rank 2."""
    torch.manual_seed(0)
    module = Tower()
    params = list(module.parameters())
    before = [p.detach().clone() for p in params]
    optimizer = ZOMuon(
        params, lr=0.1, rank=2, update="norm", embeddings=False, module=module, seed=SEED
    )
    optimizer.step(module)
    moves = [p.detach() - old for p, old in zip(params, before, strict=True)]
    for i, delta in enumerate(moves):
        outside = i in (0, 5)
        size = 1 if outside or delta.ndim < 2 else 2
        assert float(delta.norm()) == pytest.approx(0.1 * LENGTH * size**0.5, rel=1e-4)
        if delta.ndim == 2:
            rank = int(torch.linalg.matrix_rank(delta, rtol=1e-4))
            assert rank == (min(delta.shape) if outside else 2)
    assert optimizer.last is not None
    g = sum(
        y / 4 * noise.values(torch.Size((7, 4)), 0, mix64(SEED, 0, k))
        for k, y in enumerate(optimizer.last.observations)
    )
    assert isinstance(g, Tensor)
    torch.testing.assert_close(moves[0], -0.1 * LENGTH * g / g.norm(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (None, "embeddings=False: needs module="),
        (nn.Linear(4, 5, bias=False), "embeddings=False: .*no list of repeated modules.*True is"),
    ],
)
def test_embeddings_that_cannot_be_found_are_refused(module: Any, said: str) -> None:
    params = list(module.parameters()) if module else [nn.Parameter(torch.ones(4, 5))]
    with pytest.raises(OptimError, match=said):
        ZOMuon(params, embeddings=False, module=module)
