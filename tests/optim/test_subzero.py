"""SubZero, LOZO-M: the subspace, its carried momentum, and a step, each against plain matrix
algebra."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bszo import LOZO, LOZOM, MeZO, SubZero, SubZeroPlus, ZOMuon
from bszo.errors import OptimError
from bszo.perturb import LowRank, Subspace, matrix_shape, mix64, noise
from tests.optim.test_reference import flat, make_loss, parameters, spsa
from tests.optim.test_theory import SLOPE, assert_mean, moves

Make = Callable[..., nn.Module]
EPS, LR, DECAY, SEED, INTERVAL = 1e-3, 1e-3, 0.4, 11, 3
# of `parameters()`, folded; None where there are no two axes
MATRICES = [(3, 4), None, None, (2, 6)]


def test_bases_are_orthonormal_and_stay_until_redrawn() -> None:
    params = [torch.empty(40, 30), torch.empty(7), torch.empty(5, 4, 3)]
    one, later, redrawn = (
        Subspace(params, 6, basis, scaled=False, square=False) for basis in (1, 1, 2)
    )
    for i, (m, n, r) in {0: (40, 30, 6), 2: (5, 12, 5)}.items():
        u, v = one.basis(i)
        assert u.shape == (m, r) and v.shape == (r, n)
        torch.testing.assert_close(u.T @ u, torch.eye(r), rtol=0, atol=1e-5)
        torch.testing.assert_close(v @ v.T, torch.eye(r), rtol=0, atol=1e-5)
        p, q, other = (
            f.direction(s, i).view(m, n) for f, s in ((one, 5), (later, 6), (redrawn, 5))
        )
        torch.testing.assert_close(u @ u.T @ q @ v.T @ v, q, rtol=0, atol=1e-5)
        torch.testing.assert_close(u.T @ p @ v.T, one.coordinates(5, i), rtol=0, atol=1e-5)
        assert float((u @ u.T @ other @ v.T @ v - other).norm()) > 0.1 * float(other.norm())
    assert torch.equal(one.direction(5, 1), noise.values(torch.Size((7,)), 1, 5)), (
        "a vector's direction is Gaussian"
    )


@pytest.mark.parametrize(
    ("shape", "rank", "square", "expected"),
    [
        ((768, 768), 24, True, (768, 768)),
        ((8, 768), 24, True, (64, 96)),
        ((768, 8), 24, True, (64, 96)),
        ((8, 768), 24, False, (8, 768)),
        ((5, 13), 24, True, (5, 13)),
        ((1, 49), 24, True, (7, 7)),
        ((1, 13), 24, True, (1, 13)),
        ((30, 5, 6), 24, True, (30, 30)),
        ((0, 3), 2, True, (0, 3)),
    ],
)
def test_adapters_are_seen_in_their_most_square_shape(
    shape: Any, rank: int, square: bool, expected: Any
) -> None:
    assert matrix_shape(torch.Size(shape), rank, square) == expected


def test_the_size_of_a_direction() -> None:
    """E|P|^2 = m n as run, r^2 as printed, with the clipped r; an adapter's included."""
    for shape, r in (((12, 10), 4), ((3, 40), 4), ((2, 2), 2)):
        for scaled, expected in ((True, torch.Size(shape).numel()), (False, r * r)):
            family = Subspace([torch.empty(shape)], 4, 1, scaled=scaled, square=True)
            squares = torch.stack([family.direction(seed, 0).square().sum() for seed in range(200)])
            error = float(squares.std()) / 200**0.5
            assert float(squares.mean()) == pytest.approx(expected, abs=4.5 * error)


@pytest.mark.parametrize(("scale", "factor"), [("sqrt(mn)/r", 1.0), ("none", 1 / 6)])
def test_as_run_the_step_is_unbiased_over_redraws(scale: Any, factor: float) -> None:
    """E[g P] = s^2 U U^T G V^T V, and over bases U U^T is r/m: as printed it is r^2 / (m n) of the
    gradient, 1/6."""
    delta = moves(
        lambda params: SubZero(
            params, lr=0.1, eps=1e-3, rank=1, interval=1, scale=scale, square=False
        ),
        (2, 3),
        lambda p: SLOPE @ p.reshape(-1),
        draws=300,
    )
    assert_mean(delta, -0.1 * factor * SLOPE)


def follow(
    optimizer: Any, params: list[nn.Parameter], step_of: Callable[[int, Tensor, Any, int], Tensor]
) -> None:
    """7 steps, two redraws; `step_of(step, theta, loss, seed) -> theta`. Directions are products in
    fp32."""
    theta, loss, reference_loss = flat(params), make_loss(), make_loss()
    for step in range(7):
        optimizer.step(lambda: loss(flat(params)))
        theta = step_of(step, theta, reference_loss, mix64(SEED, step, 0))
        torch.testing.assert_close(flat(params), theta, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("scale", ["sqrt(mn)/r", "none"])
@pytest.mark.parametrize("momentum", [0.0, 0.7])
def test_subzero(scale: Any, momentum: float) -> None:
    params, rank = parameters(), 2
    optimizer = SubZero(
        params,
        lr=LR,
        eps=EPS,
        rank=rank,
        interval=INTERVAL,
        scale=scale,
        square=False,
        momentum=momentum,
        state_dtype="parameter",
        weight_decay=DECAY,
        seed=SEED,
    )
    kept: list[Tensor] = [torch.zeros((), dtype=torch.float64)] * 4
    old: Any = None

    def whole(i: int, coordinates: Tensor, bases: Any) -> Tensor:
        if MATRICES[i] is None:
            return coordinates
        m, n = MATRICES[i]
        u, v = bases[i]
        return (u @ coordinates @ v * ((m * n) ** 0.5 / rank if scale != "none" else 1.0)).reshape(
            -1
        )

    def step_of(step: int, theta: Tensor, loss: Any, seed: int) -> Tensor:
        nonlocal old, kept
        family = Subspace(
            params, rank, mix64(SEED, step // INTERVAL, -2), scaled=False, square=False
        )
        bases = [
            None if shape is None else [f.double() for f in family.basis(i)]
            for i, shape in enumerate(MATRICES)
        ]
        c = [family.coordinates(seed, i).double() for i in range(4)]
        p = torch.cat([whole(i, c[i], bases).reshape(-1) for i in range(4)])
        g = spsa(theta, loss, p, EPS)
        if old is not None:
            kept = [
                m if b is None else b[0].T @ a[0] @ m @ a[1] @ b[1].T
                for m, a, b in zip(kept, old, bases, strict=True)
            ]
        kept, old = [momentum * m + g * z for m, z in zip(kept, c, strict=True)], bases
        moved = torch.cat([whole(i, kept[i], bases).reshape(-1) for i in range(4)])
        return theta - LR * (moved + DECAY * theta)

    follow(optimizer, params, step_of)
    for p, shape in zip(params, MATRICES, strict=True):
        if momentum:
            assert optimizer.state[p]["momentum"].shape == ((rank, rank) if shape else p.shape)
    assert momentum or not optimizer.state


@pytest.mark.parametrize(("scale", "factor"), [("none", (1, 1)), ("sqrt(mn)/r", (12, 12))])
def test_subzero_plus(scale: Any, factor: tuple[int, int]) -> None:
    """torch's own Adam on Z, which knows nothing of U and V, so moments stay at redraws."""
    params, rank, count = parameters(), 2, 3
    optimizer = SubZeroPlus(
        params,
        lr=LR,
        eps=EPS,
        num_directions=count,
        rank=rank,
        interval=INTERVAL,
        scale=scale,
        square=False,
        betas=(0.8, 0.9),
        adam_eps=1e-3,
        state_dtype="parameter",
        weight_decay=DECAY,
        seed=SEED,
    )
    s = [(mn**0.5 / rank if scale != "none" else 1.0) for mn in factor]
    points = [
        torch.zeros((rank, rank) if shape else p.shape, dtype=torch.float64)
        for p, shape in zip(params, MATRICES, strict=True)
    ]
    adam = torch.optim.Adam(points, lr=LR, betas=(0.8, 0.9), eps=1e-3)
    theta, loss, reference_loss = flat(params), make_loss(), make_loss()
    for step in range(7):
        optimizer.step(lambda: loss(flat(params)))
        family = Subspace(
            params,
            rank,
            mix64(SEED, step // INTERVAL, -2),
            scaled=False,
            square=False,
            haar=True,
        )

        def whole(parts: list[Tensor], family: Any = family) -> Tensor:
            first, last = (
                scale * family.basis(i)[0].double() @ parts[i] @ family.basis(i)[1].double()
                for i, scale in zip((0, 3), s, strict=True)
            )
            return torch.cat([part.reshape(-1) for part in (first, *parts[1:3], last)])

        f_0 = reference_loss(theta)
        for point in points:
            point.zero_()
            point.grad = torch.zeros_like(point)
        for k in range(count):
            z = [family.coordinates(mix64(SEED, step, k), i).double() for i in range(4)]
            y = (reference_loss(theta + EPS * whole(z)) - f_0) / EPS
            for point, one in zip(points, z, strict=True):
                assert point.grad is not None
                point.grad += y / count * one
        adam.step()
        theta = theta + whole(points) - LR * DECAY * theta
        torch.testing.assert_close(flat(params), theta, rtol=1e-5, atol=1e-6)


def test_a_haar_basis_has_random_signs() -> None:
    """U and V are the factors whose R has a positive diagonal: A R^-1 with R from Cholesky."""
    family = Subspace([torch.empty(9, 7)], 3, 5, scaled=False, square=False, haar=True)
    for found, side, which in ((family.basis(0)[0], 9, 0), (family.basis(0)[1].T, 7, 1)):
        a = noise.values(torch.Size((side, 3)), 0, mix64(5, which)).double()
        wanted = a @ torch.linalg.inv(torch.linalg.cholesky(a.T @ a).T)
        torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("scale", ["1/r", "none"])
def test_lozo_m(scale: Any) -> None:
    params, rank, b = parameters(), 2, 0.7
    optimizer = LOZOM(
        params,
        lr=LR,
        eps=EPS,
        rank=rank,
        interval=INTERVAL,
        scale=scale,
        momentum=b,
        weight_decay=DECAY,
        state_dtype="parameter",
        seed=SEED,
    )
    kept: list[Tensor] = [torch.zeros((), dtype=torch.float64)] * 4
    old: Any = None

    def step_of(step: int, theta: Tensor, loss: Any, seed: int) -> Tensor:
        nonlocal old, kept
        family = LowRank(params, rank, mix64(SEED, step // INTERVAL, -2))
        v = [
            None if shape is None else family.basis(i).double() for i, shape in enumerate(MATRICES)
        ]
        u = [family.coordinates(seed, i).double() for i in range(4)]
        p = torch.cat(
            [
                (a if basis is None else a @ basis.T).reshape(-1)
                for a, basis in zip(u, v, strict=True)
            ]
        )
        torch.testing.assert_close(p, flat(family(params, seed)), rtol=1e-5, atol=1e-6)
        g = spsa(theta, loss, flat(family(params, seed)), EPS)
        if step and step % INTERVAL == 0:
            kept = [
                m if new is None else m @ before.T @ new / new.shape[0]
                for m, before, new in zip(kept, old, v, strict=True)
            ]
        kept, old = [b * m + (1 - b) * g * a for m, a in zip(kept, u, strict=True)], v
        s = 1 / rank if scale == "1/r" else 1.0
        moved = [m if basis is None else s * m @ basis.T for m, basis in zip(kept, v, strict=True)]
        return theta - LR * (torch.cat([m.reshape(-1) for m in moved]) + DECAY * theta)

    follow(optimizer, params, step_of)
    assert [optimizer.state[p]["momentum"].numel() for p in params] == [3 * rank, 5, 1, 2 * rank]


@pytest.mark.parametrize("start", ["zero", "first"])
def test_as_run_lozo_m_begins_with_the_whole_estimate(start: Any) -> None:
    """The released code's M_0 is g U; with M = 0 before the first step it is (1 - b) g U."""
    generator = torch.Generator().manual_seed(0)
    w = nn.Parameter(torch.randn(6, 5, generator=generator, dtype=torch.float64))
    mine, momentum = w.detach().clone(), None
    optimizer = LOZOM([w], lr=1e-3, eps=1e-4, scale="none", start=start)

    def loss(x: Tensor) -> float:
        return float((x**2).sum() + x.sum().sin())

    for _ in range(12):
        optimizer._bind()
        family: Any = optimizer.subspace(0)
        u = family.coordinates(optimizer.direction_seeds(1)[0], 0).double()
        v = family.basis(0).double()
        g = (loss(mine + 1e-4 * u @ v.T) - loss(mine - 1e-4 * u @ v.T)) / 2e-4
        if momentum is None:
            momentum = (1.0 if start == "first" else 0.1) * g * u
        else:
            momentum = 0.9 * momentum + 0.1 * g * u
        mine = mine - 1e-3 * momentum @ v.T
        optimizer.step(lambda: loss(w.detach()))
    torch.testing.assert_close(w.detach(), mine, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("make", [LOZOM, SubZero])
def test_a_redraw_that_was_skipped_is_made_up_for(make: Any) -> None:
    """A momentum is carried from the basis that it is in, not from the one before."""
    tracks = []
    for skip in (False, True):
        p = nn.Parameter(torch.ones(4, 5, dtype=torch.float64))
        optimizer = make([p], rank=2, interval=2, momentum=0.5, lr=1.0)
        optimizer.step(lambda p=p: float(p[0].sum()))
        for _ in range(1 if skip else 3):
            # as `skip` does: the directions of 1, or of 1 to 3, are used up
            optimizer.num_steps += 1
        family = optimizer.directions() if skip else None
        before = optimizer.state[p]["momentum"].clone()
        optimizer.step(lambda: 1.0)
        tracks.append((before, optimizer.state[p]["momentum"] * 2, optimizer))
        assert family is None or family.basis_seed == mix64(0, 1, -2)
    for (before, after, optimizer), draw in zip(tracks, (2, 1), strict=True):
        here, there = optimizer.subspace(draw), optimizer.subspace(0)
        optimizer._bind()
        torch.testing.assert_close(after, here.carry(before, 0, there), rtol=1e-5, atol=1e-7)


def test_a_basis_is_drawn_once_an_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    qr = torch.linalg.qr
    monkeypatch.setattr(torch.linalg, "qr", lambda a: drawn.append(1) or qr(a))
    optimizer = SubZero(parameters(), rank=2, interval=4)
    for _ in range(8):
        optimizer.step(lambda: 1.0)
    assert len(drawn) == 2 * 2 * 2, "two matrices, two factors, two intervals"


@pytest.mark.parametrize(
    ("make", "rank", "error"),
    [
        (LOZO, 3, "rank=3: the trained matrices' smaller sides are 2 at most; 1 to 2 is valid"),
        (LOZOM, 3, "rank=3: the trained matrices' smaller sides are 2 at most; 1 to 2 is valid"),
    ],
)
def test_a_rank_above_every_matrix_s_is_refused(make: Any, rank: int, error: str) -> None:
    with pytest.raises(OptimError, match=error):
        make([nn.Parameter(torch.ones(2, 9))], rank=rank)


@pytest.mark.parametrize("make", [LOZO, LOZOM, SubZero])
def test_without_a_matrix_a_rank_is_refused(make: Any) -> None:
    with pytest.raises(
        OptimError,
        match="no trained parameter has two axes, so that none has a rank; MeZO is valid",
    ):
        make([nn.Parameter(torch.ones(9))], rank=1)


def test_full_rank_subzero_is_mezo_in_another_basis() -> None:
    """r = m = n: U Z V of a Gaussian Z is a Gaussian matrix, so that the mean squared step is
    MeZO's."""
    sizes = [
        moves(
            lambda params, make=make: make(params), (3, 3), lambda p: p.sum() + p[0, 0], draws=200
        )
        .square()
        .sum(dim=1)
        for make in (
            lambda ps: SubZero(ps, lr=0.1, rank=3, interval=1),
            lambda ps: MeZO(ps, lr=0.1),
        )
    ]
    error = (sizes[0].var() / 200 + sizes[1].var() / 200).sqrt()
    assert abs(float(sizes[0].mean() - sizes[1].mean())) < 4 * float(error)


@pytest.mark.parametrize("make", [LOZOM, SubZero])
def test_a_momentum_in_blocks_stays_small_and_is_carried(make: Any) -> None:
    """One matrix is one block, so that nothing may change: over two redraws, bit for bit."""
    states = []
    for blocks in ("none", "tensor"):
        p = nn.Parameter(torch.linspace(-1, 1, 30).reshape(5, 6))
        optimizer = make([p], rank=2, interval=2, momentum=0.5, lr=1e-2).restrict(blocks=blocks)
        for _ in range(6):
            optimizer.step(lambda p=p: p.detach().sin().sum())
        assert optimizer.state[p]["momentum"].numel() in (2 * 5, 2 * 2)
        states.append((p.detach(), optimizer.state[p]["momentum"]))
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))


def test_a_momentum_of_zero_forgets_what_was_before() -> None:
    """M <- 0 M + g Z, as of a momentum that is next to nothing."""

    def moved(between: float) -> Tensor:
        theta = nn.Parameter(torch.ones(6, 5, dtype=torch.float64))
        optimizer = SubZero([theta], lr=1e-3, eps=1e-3, rank=2, interval=100, momentum=0.9, seed=1)
        for steps, momentum in ((3, 0.9), (5, between), (1, 0.9)):
            optimizer.momentum = momentum
            for _ in range(steps):
                optimizer.step(lambda: (theta - 0.3).square().sum())
        return theta.detach()

    torch.testing.assert_close(moved(0.0), moved(1e-300), rtol=0, atol=1e-14)


@pytest.mark.parametrize("cls", [LOZO, SubZero, ZOMuon])
def test_a_state_with_other_numbers_replaces_the_basis_that_was_drawn(cls: Any) -> None:
    def begun() -> list[nn.Parameter]:
        generator = torch.Generator().manual_seed(0)
        return [
            nn.Parameter(torch.randn(6, 5, dtype=torch.float64, generator=generator))
            for _ in range(2)
        ]

    def step(optimizer: Any, params: list[nn.Parameter]) -> None:
        optimizer.step(lambda: sum((p - 1).square().sum() for p in params))

    def make(params: list[nn.Parameter]) -> Any:
        return cls(params, lr=1e-3, eps=1e-3, rank=2, interval=50, seed=1)

    params, others = begun(), begun()
    params[0].requires_grad_(False)
    first, second = make(params), make(others)
    step(first, params)  # the second parameter gets the first number
    params[0].requires_grad_(True)
    step(first, params)
    step(second, others)  # here both have theirs in order
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    with torch.no_grad():
        for p, other in zip(params, others, strict=True):
            other.copy_(p)
    step(first, params)
    step(second, others)
    assert all(torch.equal(p, other) for p, other in zip(params, others, strict=True))
