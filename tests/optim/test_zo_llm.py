"""ZO-LLM's methods, FZOO, evolution strategies and MeZO-BCD against dense references, and what sets
each apart."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bszo import ES, FZOO, MeZO, MeZOBCD, ZOSGDConservative, ZOSGDMomentum, ZOSGDSign
from bszo.errors import OptimError
from bszo.perturb import Gaussian, OuterProduct, mix64, noise
from tests.optim.test_reference import Loss, N, flat, follow, parameters, spsa

Make = Callable[..., nn.Module]
EPS, LR, DECAY = 1e-3, 2e-3, 0.4


def mean_estimate(theta: Tensor, loss: Loss, z: list[Tensor]) -> Tensor:
    return torch.stack([spsa(theta, loss, one, EPS) * one for one in z]).mean(0)


@pytest.mark.parametrize("q", [1, 3])
def test_sign_of_every_element(q: int) -> None:
    def reference(theta: Tensor, loss: Loss, z: list[Tensor]) -> Tensor:
        return theta - LR * (mean_estimate(theta, loss, z).sign() + DECAY * theta)

    follow(ZOSGDSign, q, reference, lr=LR, eps=EPS, num_directions=q, weight_decay=DECAY)


@pytest.mark.parametrize("q", [1, 3])
def test_sign_of_the_scalar(q: int) -> None:
    def reference(theta: Tensor, loss: Loss, z: list[Tensor]) -> Tensor:
        signed = torch.stack(
            [math.copysign(1.0, spsa(theta, loss, one, EPS)) * one for one in z]
        ).mean(0)
        return theta - LR * (signed + DECAY * theta)

    follow(
        ZOSGDSign, q, reference, lr=LR, eps=EPS, num_directions=q, sign="scalar", weight_decay=DECAY
    )


@pytest.mark.parametrize("q", [1, 2])
def test_momentum(q: int) -> None:
    """torch's own SGD with momentum on the same dense gradients."""
    point = torch.zeros(N, dtype=torch.float64)
    sgd = torch.optim.SGD([point], lr=LR, momentum=0.8)

    def reference(theta: Tensor, loss: Loss, z: list[Tensor]) -> Tensor:
        point.copy_(theta)
        point.grad = mean_estimate(theta, loss, z)
        sgd.step()
        return point - LR * DECAY * theta

    optimizer, params = follow(
        ZOSGDMomentum,
        q,
        reference,
        lr=LR,
        eps=EPS,
        num_directions=q,
        momentum=0.8,
        weight_decay=DECAY,
        state_dtype="parameter",
    )
    kept = flat([optimizer.state[p]["momentum"] for p in params])
    torch.testing.assert_close(kept, sgd.state[point]["momentum_buffer"], rtol=1e-8, atol=1e-9)


def test_the_first_step_of_a_momentum_is_mezo_s_in_float64_too() -> None:
    """The estimate is made in the parameters' own type where that is wider than z's."""
    moved = []
    for make in (ZOSGDMomentum, MeZO):
        params = parameters()
        more: Any = {"state_dtype": "parameter"} if make is ZOSGDMomentum else {}
        make(params, lr=LR, eps=EPS, weight_decay=DECAY, **more).step(
            lambda p=params: float(flat(p).sin().sum())
        )
        moved.append(flat(params) - flat(parameters()))
    torch.testing.assert_close(*moved, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("lr", "seen"), [(2e-3, {1}), (0.05, {0, 1}), (20.0, {0})])
def test_the_best_of_three(lr: float, seen: set[int]) -> None:
    """A rate that helps, one that is too long half of the time, and one at which staying is
    best."""
    kept: list[int] = []

    def reference(theta: Tensor, loss: Loss, z: list[Tensor]) -> Tensor:
        g = mean_estimate(theta, loss, z)
        candidates = [theta, theta - lr * g, theta + lr * g]
        losses = [loss(candidate) for candidate in candidates]
        kept.append(losses.index(min(losses)))
        return candidates[kept[-1]]

    for q in (1, 2, 3):
        follow(ZOSGDConservative, q, reference, lr=lr, eps=EPS, num_directions=q)
    assert set(kept) == seen


def test_against_the_slope_where_that_is_lowest() -> None:
    """A slope of 1 near 0, a wall on the left and a pit on the right."""
    p = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = ZOSGDConservative(
        [p], lr=0.1, eps=EPS, directions=lambda params, seed: [torch.ones(1)]
    )
    optimizer.step(lambda: x if abs(x := p.detach().item()) < 0.01 else -math.copysign(1.0, x))
    assert (
        p.item() == pytest.approx(0.1) and optimizer.last is not None and optimizer.last.loss == 0.0
    )


def test_a_candidate_without_a_finite_loss_is_not_taken() -> None:
    """A slope of 1 down to a wall of NaN: the step would lead into it, the other way is up, so it
    stays."""
    p = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = ZOSGDConservative(
        [p], lr=0.1, eps=EPS, directions=lambda params, seed: [torch.ones(1)]
    )
    optimizer.step(lambda: x if (x := p.detach().item()) > -0.01 else math.nan)
    assert p.item() == 0.0 and optimizer.last is not None and optimizer.last.losses[-2] == math.inf


def test_conservative_steps_know_each_group_s_rate() -> None:
    """The candidate that is measured is the step that is taken, group by group."""
    params, seen = parameters(), []
    groups = [{"params": params[:2], "lr": 1e-2}, {"params": params[2:], "lr": 0.0}]
    optimizer = ZOSGDConservative(groups, eps=EPS, seed=1)
    before = flat(params)
    optimizer.step(lambda: seen.append(flat(params)) or float(flat(params).square().sum()))
    _, _, stay, down, up = seen
    assert torch.equal(stay, before)
    torch.testing.assert_close(flat(params), down, rtol=1e-13, atol=0)
    torch.testing.assert_close(down - before, before - up, rtol=1e-9, atol=1e-14)
    assert torch.equal(down[17:], before[17:]) and not torch.equal(down[:17], before[:17])


def test_fzoo() -> None:
    count = 5

    def reference(theta: Tensor, loss: Loss, u: list[Tensor]) -> Tensor:
        f_0 = loss(theta)
        losses = torch.tensor([loss(theta + EPS * one) for one in u], dtype=torch.float64)
        step = ((losses - f_0) / losses.std(correction=1)) @ torch.stack(u) / count
        return theta - LR * (step + DECAY * theta)

    follow(FZOO, count, reference, lr=LR, eps=EPS, num_directions=count, weight_decay=DECAY)


def test_a_population_whose_losses_are_one_moves_nothing() -> None:
    """Though the loss at theta is another: z-scores without a spread are 0."""
    params, losses = parameters(), iter([1.0] + 4 * [2.0])
    optimizer = FZOO(params, lr=0.1, eps=EPS, num_directions=4)
    optimizer.step(lambda: next(losses))
    assert torch.equal(flat(params), flat(parameters()))


def test_as_run_fzoo_divides_by_the_deviation_of_all_eight() -> None:
    ends = []
    for deviation in ("sample", "population"):
        theta = torch.ones(6, dtype=torch.float64, requires_grad=True)
        optimizer = FZOO([theta], lr=0.1, eps=1e-3, deviation=deviation)
        optimizer.step(lambda theta=theta: (theta * torch.arange(1, 7)).square().sum())
        ends.append(theta.detach() - 1)
    torch.testing.assert_close(ends[1], math.sqrt(8 / 7) * ends[0], rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("settings", "correction"),
    [
        ({"deviation": "population"}, 0),
        ({"law": "low-rank", "antithetic": True, "weight": "1/sqrt(N)"}, 1),
        ({"baseline": "L_0", "score": "difference", "law": "rademacher"}, 1),
    ],
    ids=["ES at scale", "EGGROLL", "one-sided"],
)
def test_evolution_strategies(settings: dict[str, Any], correction: int) -> None:
    """A population with a score each: its mean, or sqrt(N) of it, moves theta."""
    count, both, slopes = 4, settings.get("antithetic", False), torch.empty(0)

    def reference(theta: Tensor, loss: Loss, z: list[Tensor]) -> Tensor:
        nonlocal slopes
        f_0 = loss(theta) if "baseline" in settings else None
        members = torch.stack([side * one for one in z for side in ((1, -1) if both else (1,))])
        losses = torch.tensor([loss(theta + EPS * one) for one in members], dtype=torch.float64)
        scores = losses - (losses.mean() if f_0 is None else f_0)
        slopes = (scores[::2] - scores[1::2]) / (2 * EPS) if both else scores / EPS
        scores /= EPS if "score" in settings else losses.std(correction=correction)
        if "weight" in settings:
            scores *= len(members) ** 0.5
        return theta - LR * (scores @ members / len(members) + DECAY * theta)

    optimizer, _ = follow(
        ES, count, reference, lr=LR, eps=EPS, num_directions=count, weight_decay=DECAY, **settings
    )
    assert optimizer.num_forwards == 6 * (2 * count if both else count + ("baseline" in settings))
    assert optimizer.last.observations == pytest.approx(slopes.tolist(), rel=1e-7)


def test_fzoo_is_an_evolution_strategy() -> None:
    ends = []
    settings: dict[str, Any] = {"baseline": "L_0", "law": "rademacher"}
    for make, more in ((FZOO, {}), (ES, settings)):
        theta = torch.ones(6, 3).requires_grad_()
        optimizer = make([theta], lr=0.1, eps=1e-3, num_directions=5, **more)
        for _ in range(3):
            optimizer.step(lambda theta=theta: theta.detach().double().exp().sum())
        ends.append(theta.detach())
        assert "baseline" in optimizer.settings() or make is FZOO
    assert torch.equal(*ends)


def test_an_outer_product_is_a_b_t_over_the_root_of_the_rank() -> None:
    family = OuterProduct([torch.empty(3, 2, 4), torch.empty(5)], 2)
    a, b = (
        noise.values(torch.Size((side, 2)), 0, mix64(9, i)).double() for i, side in ((0, 3), (1, 8))
    )
    z = family.direction(9, 0).double()
    torch.testing.assert_close(z, (a @ b.T / 2**0.5).view(3, 2, 4), rtol=0, atol=1e-5)
    assert torch.equal(family.direction(9, 1), noise.values(torch.Size((5,)), 1, 9))


def test_a_baseline_between_z_and_minus_z_is_refused() -> None:
    with pytest.raises(OptimError, match=r"baseline='L_0' with antithetic=True: .*mean is valid"):
        ES(parameters(), baseline="L_0", antithetic=True)


def test_fzoo_draws_signs_and_its_step_does_not_know_the_loss_s_scale() -> None:
    moves = []
    for scale in (1.0, 1000.0):
        params, seen = parameters(), []
        before = flat(params)
        optimizer = FZOO(params, lr=0.1, eps=EPS, num_directions=4)

        def closure(params: Any = params, seen: Any = seen, scale: float = scale) -> float:
            seen.append(flat(params))
            return scale * float(flat(params).square().sum())

        optimizer.step(closure)
        offsets = torch.stack(seen[1:]) - before
        torch.testing.assert_close(offsets.abs(), torch.full_like(offsets, EPS), rtol=1e-9, atol=0)
        moves.append(flat(params) - before)
    torch.testing.assert_close(moves[0], moves[1], rtol=1e-9, atol=1e-12)


def stack(dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    layers = nn.ModuleDict(
        {
            "embed": nn.Embedding(5, 4),
            "layers": nn.ModuleList(nn.Linear(4, 4) for _ in range(3)),
            "head": nn.Linear(4, 2),
        }
    )
    return layers.to(dtype)


@pytest.mark.parametrize("order", ["cyclic", "random"])
def test_one_block_is_perturbed_and_moved(order: Any) -> None:
    """theta and what the closure saw, block by block, against the formula with z of the whole
    Gaussian family."""
    module = stack()
    params = list(module.parameters())
    bounds = torch.tensor([0, 20, 40, 60, 80, 90])  # embedding, three layers, head
    optimizer = MeZOBCD(
        params, lr=1e-2, eps=EPS, order=order, module=module, perturbation="copy", seed=2
    )
    family, turns = Gaussian(params), []
    for _ in range(25):
        before, seen = flat(params), []

        def closure(seen: Any = seen) -> float:
            seen.append(flat(params))
            return float((flat(params) - 0.3).square().sum())

        optimizer.step(closure)
        moved = (flat(params) - before).nonzero().flatten()
        (block,) = {int(torch.searchsorted(bounds, i, right=True)) - 1 for i in moved}
        assert len(moved) == bounds[block + 1] - bounds[block], "all of the block"
        z = torch.zeros(90, dtype=torch.float64)
        inside = slice(int(bounds[block]), int(bounds[block + 1]))
        optimizer.num_steps -= 1
        optimizer._block = block
        z[inside] = flat(family(params, optimizer.direction_seeds(1)[0]))[inside]
        optimizer.num_steps, optimizer._block = optimizer.num_steps + 1, 0
        family.release()
        torch.testing.assert_close(
            torch.stack(seen) - before, torch.stack([EPS * z, -EPS * z]), rtol=1e-7, atol=1e-15
        )
        g = spsa(before, lambda theta: float((theta - 0.3).square().sum()), z, EPS)
        torch.testing.assert_close(flat(params), before - 1e-2 * g * z, rtol=1e-10, atol=1e-12)
        turns.append(block)
    assert turns == [t % 5 for t in range(25)] if order == "cyclic" else set(turns) == set(range(5))


def test_no_noise_is_drawn_outside_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    shift = Gaussian.shift
    monkeypatch.setattr(
        Gaussian,
        "shift",
        lambda self, theta, index, *args, **more: (
            drawn.append(index) or shift(self, theta, index, *args, **more)
        ),
    )
    module = stack()
    optimizer = MeZOBCD(module.parameters(), module=module, perturbation="copy")
    for indices in ([0], [1, 2], [3, 4], [5, 6], [7, 8]):
        drawn.clear()
        optimizer.step(lambda: 1.0)
        assert sorted(set(drawn)) == indices and len(drawn) == 3 * len(indices)


def test_blocks_that_cannot_be_are_refused(problem: Make) -> None:
    with pytest.raises(OptimError, match=r"blocks='transformer'.*no list of repeated modules"):
        MeZOBCD((module := problem()).parameters(), module=module)
    with pytest.raises(OptimError, match="blocks='transformer': needs module="):
        MeZOBCD(problem().parameters())
    with pytest.raises(
        OptimError, match="blocks='linear': MeZO-BCD was built with blocks='tensor'"
    ):
        MeZOBCD(problem().parameters(), blocks="tensor").restrict(blocks="linear")
