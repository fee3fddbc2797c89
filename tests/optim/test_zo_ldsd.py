"""ZO-LDSD against a dense reference, where its mean goes (along the gradient, or nowhere), and the
mean over a window."""

import io
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bszo import ZOLDSD
from bszo.errors import OptimError
from tests.optim.test_reference import Loss, N, flat, follow, make_loss, parameters, spsa

Make = Callable[..., nn.Module]
EPS, SPREAD, RATE = 1e-2, 0.7, 0.5
WINDOWED: dict[str, Any] = {"lr": 0.02, "eps": EPS, "mean_lr": 5.0, "num_directions": 3}


def dense_step(
    theta: Tensor, mu: Tensor, loss: Loss, z: list[Tensor], plus_side: str = "kept"
) -> tuple[Tensor, Tensor]:
    """Theta after a step at lr 1e-3 and weight decay 0.4, and what mu moves by."""
    v = [mu + SPREAD * z_i for z_i in z]
    f = torch.tensor([loss(theta + EPS * v_i) for v_i in v], dtype=torch.float64)
    best = v[int(f.argmin())]
    f_plus = float(f.min()) if plus_side == "kept" else loss(theta + EPS * best)
    g = (f_plus - loss(theta - EPS * best)) / (2 * EPS)
    weights = (len(z) * f - f.sum()) / (len(z) - 1)
    step = sum((a * z_i for a, z_i in zip(weights, z, strict=True)), torch.zeros_like(mu))
    return theta - 1e-3 * (g * best + 0.4 * theta), -RATE * step / (SPREAD * len(z))


@pytest.mark.parametrize("plus_side", ["kept", "again"])
def test_zo_ldsd(plus_side: Any) -> None:
    mu = torch.zeros(N, dtype=torch.float64)

    def reference(theta: Tensor, loss: Loss, z: list[Tensor]) -> Tensor:
        nonlocal mu
        theta, move = dense_step(theta, mu, loss, z, plus_side)
        mu = mu + move
        return theta

    optimizer, params = follow(
        ZOLDSD,
        3,
        reference,
        lr=1e-3,
        eps=EPS,
        num_directions=3,
        spread=SPREAD,
        mean_lr=RATE,
        plus_side=plus_side,
        weight_decay=0.4,
        state_dtype="parameter",
    )
    found = flat([optimizer.state[p]["mean"] for p in params])
    torch.testing.assert_close(found, mu, rtol=1e-8, atol=1e-9)
    assert float(mu.abs().max()) > 0.1, "mu must have moved for this to mean something"


def test_the_mean_follows_the_gradient_along_evaluated_noise_and_nothing_along_fresh() -> None:
    """A linear loss and lr 0: the steps of mu are independent, mean_lr eps grad L on average.

    Along fresh noise a step's part along grad L has mean zero, and the standard deviation mean_lr
    sd(F) / sqrt(K - 1), which is mean_lr eps |grad L| / sqrt(K - 1).
    """
    num_steps, k, eps, rate = 200, 17, 1e-3, 0.01
    slope = torch.randn(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    share = {}
    for mean_noise in ("evaluated", "fresh"):
        theta = torch.nn.Parameter(torch.zeros(40, dtype=torch.float64))
        optimizer = ZOLDSD(
            [theta],
            lr=0.0,
            eps=eps,
            num_directions=k,
            mean_lr=rate,
            mean_noise=mean_noise,  # type: ignore[arg-type]
            state_dtype="parameter",
            directions=drawn,  # a quarter of the time
        )
        for _ in range(num_steps):
            optimizer.step(lambda theta=theta: slope @ theta)
        mu = optimizer.state[theta]["mean"]
        share[mean_noise] = float(-mu @ slope / (slope @ slope)) / (num_steps * rate * eps)
    deviation = 1 / math.sqrt((k - 1) * num_steps)
    assert share["evaluated"] == pytest.approx(1, abs=0.1)
    assert abs(share["fresh"]) < 4 * deviation < 0.1


def test_fresh_noise_stays_in_its_block() -> None:
    """Each block's mean moves by the losses of its own directions."""
    params = parameters()
    optimizer = ZOLDSD(params, lr=0.0, eps=EPS, mean_lr=1.0, mean_noise="fresh")
    optimizer.restrict(blocks="tensor")
    loss = make_loss()
    optimizer.step(lambda: loss(flat(params)))
    assert all(bool((optimizer.state[p]["mean"] != 0).all()) for p in params)
    assert len(optimizer.last.observations) == len(params)  # type: ignore[union-attr]


def test_without_a_mean_the_best_of_k_gaussians_is_left() -> None:
    params, loss, reference_loss = parameters(), make_loss(), make_loss()
    optimizer = ZOLDSD(params, lr=1e-3, eps=EPS, num_directions=4, mean_lr=0.0)
    theta = flat(params)
    seeds = optimizer.direction_seeds(4)
    optimizer.step(lambda: loss(flat(params)))
    z = [flat(optimizer._family(params, seed)) for seed in seeds]
    best = min(z, key=lambda one: reference_loss(theta + EPS * one))
    g = spsa(theta, lambda at: make_loss()(at), best, EPS)
    moved = (theta - flat(params)) / 1e-3
    assert float(moved @ best / (moved.norm() * best.norm())) == pytest.approx(
        math.copysign(1.0, g)
    )


def drawn(params: Sequence[Tensor], seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed % 2**63)
    return [torch.randn(p.shape, dtype=torch.float64, generator=generator) for p in params]


@pytest.mark.parametrize("window", [2, 6])
def test_over_a_window_the_mean_is_the_sum_of_the_last_moves(window: int) -> None:
    """Against the formula; and the dense mean's own steps as long as nothing is forgotten."""
    params, others = parameters(), parameters()
    more: dict[str, Any] = {
        "lr": 1e-3,
        "eps": EPS,
        "num_directions": 3,
        "spread": SPREAD,
        "mean_lr": RATE,
        "weight_decay": 0.4,
        "directions": drawn,
    }
    optimizer = ZOLDSD(params, mean_window=window, **more)
    dense = ZOLDSD(others, state_dtype="parameter", **more)
    theta, moves = flat(params), [torch.zeros(N, dtype=torch.float64)]
    loss, reference_loss, dense_loss = make_loss(), make_loss(), make_loss()
    for step in range(6):
        z = [flat(drawn(params, seed)) for seed in optimizer.direction_seeds(3)]
        mu = torch.stack(moves[-window:]).sum(0)
        theta, move = dense_step(theta, mu, reference_loss, z)
        moves = [*moves, move]
        optimizer.step(lambda: loss(flat(params)))
        dense.step(lambda: dense_loss(flat(others)))
        torch.testing.assert_close(flat(params), theta, rtol=1e-10, atol=1e-11)
        far = float((flat(params) - flat(others)).abs().max())
        assert far < 1e-11 if step <= window else far > 1e-4
    assert float(mu.abs().max()) > 0.1, "mu must have moved for this to mean something"
    assert not optimizer.state and [len(move) for move in optimizer._moves] == [3] * window


@pytest.mark.parametrize("mean_noise", ["evaluated", "fresh"])
def test_each_block_has_a_mean_of_its_own_directions(problem: Make, mean_noise: Any) -> None:
    one, two = problem(torch.float64), problem(torch.float64)
    settings = {**WINDOWED, "mean_noise": mean_noise, "spread": 0.5}  # exact in fp32
    dense = ZOLDSD(one.parameters(), state_dtype="parameter", **settings)
    windowed = ZOLDSD(two.parameters(), mean_window=4, **settings)
    for optimizer in (dense, windowed):
        optimizer.restrict(blocks="tensor")
    for _ in range(4):
        assert windowed.step(two) == pytest.approx(dense.step(one), rel=1e-12)
    for p, q in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-11)
    assert [len(move) for move in windowed._moves] == [4 * 3] * 4


def test_a_window_goes_on_bit_for_bit_from_a_file(problem: Make) -> None:
    whole, halves, other = problem(), problem(), problem()
    optimizer = ZOLDSD(whole.parameters(), mean_window=2, **WINDOWED)
    first = ZOLDSD(halves.parameters(), mean_window=2, **WINDOWED)
    second = ZOLDSD(other.parameters(), mean_window=2, **WINDOWED, seed=9)
    expected = [optimizer.step(whole) for _ in range(6)]
    losses = [first.step(halves) for _ in range(3)]
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    other.load_state_dict(halves.state_dict())
    second.load_state_dict(torch.load(file, weights_only=True))
    assert [*losses, *(second.step(other) for _ in range(3))] == expected
    assert second.state_dict()["zeroth_order"] == optimizer.state_dict()["zeroth_order"]
    with pytest.raises(OptimError, match="saved with mean_window=2, here it is 3"):
        ZOLDSD(other.parameters(), mean_window=3, **WINDOWED).load_state_dict(first.state_dict())
    older = ZOLDSD(other.parameters(), **WINDOWED).state_dict()
    older["param_groups"] = [{**group} for group in older["param_groups"]]
    del older["param_groups"][0]["mean_window"]
    with pytest.raises(OptimError, match="saved with mean_window=None, here it is 2"):
        second.load_state_dict(older)


def test_the_window_starts_anew_where_other_parameters_train(problem: Make) -> None:
    """At lr 0 the losses of a step tell whether it has a mean: without one they are those of
    mean_lr 0."""
    one, two = problem(), problem()
    windowed = ZOLDSD(one.parameters(), mean_window=9, **{**WINDOWED, "lr": 0.0})  # type: ignore[arg-type]
    still = ZOLDSD(
        two.parameters(),
        mean_window=9,
        **{**WINDOWED, "lr": 0.0, "mean_lr": 0.0},  # type: ignore[arg-type]
    )
    same = []
    for step in range(5):
        for module in (one, two):
            module.matrix.requires_grad_(step < 2 or step == 4)
        same.append(windowed.step(one) == still.step(two))
    assert same == [True, False, True, False, True]


def test_what_a_window_cannot_have_is_refused(problem: Make) -> None:
    params = list(problem().parameters())
    with pytest.raises(OptimError, match=r"sparsity=0.5: mean_window=2 .* mean_window=None takes"):
        ZOLDSD(params, mean_window=2).restrict(sparsity=0.5)
    optimizer = ZOLDSD(params[:1], mean_window=2)
    with pytest.raises(OptimError, match=r"mean_lr=0.5 in group 1: .*; 0.04 is valid"):
        optimizer.add_param_group({"params": params[1:], "mean_lr": 0.5})


def test_settings_say_a_window_and_leave_the_dense_mean_unsaid(problem: Make) -> None:
    """Headers of trajectories from before the argument have no word of it."""
    params = list(problem().parameters())
    assert ZOLDSD(params, mean_window=2).settings()["mean_window"] == 2
    assert "mean_window" not in ZOLDSD(params).settings()
