"""The range test lands beside the best rate, leaves all as it was, and refuses what it cannot
judge."""

import copy
import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bszo import BSZO, LOZOM, FirstOrder, MeZO, SubZero, find_lr
from bszo.errors import NonFiniteLoss, OptimError
from bszo.optim import range_test
from bszo.perturb import mix64
from bszo.perturb.noise import values

HALF_DECADES = [float(f"{lead}e{exponent}") for exponent in range(-5, 1) for lead in (1, 3)]
WHOLE_RUN = 300  # steps
# each keeps something of another kind from step to step
KEEPING = (
    "bszo-printed",
    "first-order",
    "hizoo",
    "hybrid",
    "loren",
    "lozo-m",
    "mezo-adam",
    "mezo-adam-history",
    "mezo-bcd",
    "mezo-sparse",
    "zo-ldsd",
)


def quadratics(spectrum: Tensor, spread: float, count: int, seed: int) -> tuple[Any, list[Any]]:
    """theta = 1, and the batches' losses (theta - c_b)^T A (theta - c_b) / 2, c_b ~ N(0, spread^2
    I)."""
    theta = nn.Parameter(torch.ones_like(spectrum))
    generator = torch.Generator().manual_seed(seed)
    centres = spread * torch.randn(count, len(spectrum), generator=generator).double()
    return theta, [lambda c=c: float(spectrum @ (theta.detach() - c).square()) / 2 for c in centres]


def expected_loss(spectrum: Tensor, spread: float, k: int, rate: float) -> float:
    """E[theta^T A theta / 2] after a whole run of theta <- theta - rate sum_i^k z_i z_i^T A (theta
    - c_b), by Gaussian moments: E[Z u u^T Z] = k ((k + 1) u u^T + |u|^2 I) for Z = sum_i z_i
    z_i^T."""
    second = torch.ones_like(spectrum)  # E[theta_i^2]
    for _ in range(WHOLE_RUN):
        u = spectrum**2 * (second + spread**2)  # E[u_i^2]
        second = second - 2 * rate * k * spectrum * second
        second = second + rate**2 * k * ((k + 1) * u + u.sum())
    return float(spectrum @ second) / 2


FLAT, STEEP = torch.ones(20).double(), torch.logspace(-2, 0, 40).double()
mezo = functools.partial(MeZO, eps=1e-3)
# a gain of 1/2 that stays: the step is MeZO's along k directions, at half the rate
bszo_half = functools.partial(
    BSZO, eps=1e-5, k=4, m=4, prior_var=1.0, noise_var=1.0, adapt_noise="never"
)


@pytest.mark.parametrize(
    ("make", "spectrum", "spread", "k", "gain", "start"),
    [
        pytest.param(mezo, FLAT, 0.0, 1, 1.0, 1e-2, id="round"),
        pytest.param(mezo, STEEP, 0.0, 1, 1.0, 3.0, id="steep-from-far-above"),
        pytest.param(mezo, STEEP, 0.3, 1, 1.0, 1e-2, id="noisy-batches"),
        pytest.param(bszo_half, STEEP, 0.1, 4, 0.5, 3e-3, id="bszo-from-below"),
    ],
)
def test_it_lands_within_half_a_decade_of_the_best(
    make: Any, spectrum: Tensor, spread: float, k: int, gain: float, start: float
):
    grid = {lr: expected_loss(spectrum, spread, k, gain * lr) for lr in HALF_DECADES}
    best = min(grid, key=lambda lr: grid[lr])
    theta, batches = quadratics(spectrum, spread, 60, seed=0)
    held = [lambda: float(spectrum @ theta.detach().square()) / 2]
    found = find_lr(make([theta], lr=start), batches, held=held, steps=10, repeats=6)
    assert found.lr is not None
    assert best / 3.4 < found.lr < best * 3.4, (best, str(found))


def test_its_numbers_are_those_of_runs_from_the_same_start():
    """Dense float64: theta <- theta - lr z z^T A (theta - c). A repeat's directions and batches are
    its own, and the same for every rate; batches begin again at the end."""
    a, steps, repeats = torch.linspace(0.5, 1.0, 5).double(), 3, 2
    theta, batches = quadratics(a, 0.5, 4, seed=0)
    held = [lambda: float(a @ theta.detach().square()), lambda: torch.tensor(3.0)]
    optimizer = MeZO([{"params": [theta], "lr": 0.2}], lr=0.2, eps=1e-3, seed=7)
    found = find_lr(optimizer, batches, held=held, rates=[0.1, 0.05], steps=steps, repeats=repeats)
    centres = 0.5 * torch.randn(4, 5, generator=torch.Generator().manual_seed(0)).double()
    assert [probe.lr for probe in found.probes] == [0.05, 0.1]
    assert found.loss == (5 * 0.75 + 3.0) / 2
    for probe in found.probes:
        changes = []
        for r in range(repeats):
            at = torch.ones(5).double()
            for t in range(steps):
                seed = mix64(mix64(7, r, -8), t, 0)
                z = values(torch.Size([5]), 0, seed).double()
                c = centres[(r * steps + t) % 4]
                at = at - probe.lr * z * float(z @ (a * (at - c)))
            changes.append((float(a @ at.square()) - 5 * 0.75) / 2)
        mean, half = sum(changes) / 2, abs(changes[0] - changes[1]) / 2
        assert probe.change == pytest.approx(mean, rel=1e-6)
        assert probe.error == pytest.approx(half, rel=1e-6)
        assert probe.score == pytest.approx(mean / half, rel=1e-6)
    assert found.num_forwards == 2 + 2 * repeats * (2 * steps + 2)


def test_a_method_is_as_it_was_and_goes_on_as_it_would_have(
    methods: dict[str, Any], problem: Callable[[], nn.Module]
):
    for name in KEEPING:
        method, models = methods[name], (problem(), problem())
        used, twin = (method(model.parameters(), seed=3) for model in models)
        for optimizer, model in zip((used, twin), models, strict=True):
            for _ in range(2):
                optimizer.step(model)
        state, last = copy.deepcopy(used.state_dict()), used.last
        find_lr(used, [models[0]], rates=[1e-2], steps=1, repeats=2)
        assert plain(used.state_dict()) == plain(state), name
        assert used.last is last, name
        assert [used.step(models[0]) for _ in range(2)] == [twin.step(models[1]) for _ in range(2)]
        for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
            assert torch.equal(p, q), name


def plain(state: Any) -> Any:
    """A state in which tensors are compared by their bits."""
    if isinstance(state, Tensor):
        return state.dtype, state.tolist()
    if isinstance(state, dict):
        return {key: plain(value) for key, value in state.items()}
    return [plain(value) for value in state] if isinstance(state, (list, tuple)) else state


def test_an_error_in_a_closure_leaves_no_trace_and_no_log_sees_the_steps():
    theta = nn.Parameter(torch.ones(3))
    optimizer = MeZO([{"params": [theta], "lr": 0.5}], lr=1.0, eps=1e-3)
    seen: list[Any] = []
    optimizer.recorder = lambda *step: seen.append(step)
    recorder, before, calls = optimizer.recorder, plain(optimizer.state_dict()), [0]

    def stumbles() -> Tensor:
        calls[0] += 1
        if calls[0] == 12:
            raise KeyError("row 12")
        return theta.square().sum()

    with pytest.raises(KeyError, match="row 12"):
        find_lr(optimizer, [stumbles], rates=[0.1], steps=2)
    assert plain(optimizer.state_dict()) == before and optimizer.param_groups[0]["lr"] == 0.5
    assert theta.tolist() == [1, 1, 1] and optimizer.recorder is recorder and seen == []


def test_groups_keep_their_ratios():
    still, moved = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(4))
    groups = [{"params": [still], "lr": 0.0}, {"params": [moved], "lr": 0.02}]
    found = find_lr(
        MeZO(groups, lr=1.0, eps=1e-3), [lambda: still.square().sum()], rates=[0.1], steps=2
    )
    assert found.probes[0].change == 0  # only the other group has moved
    assert still.tolist() == moved.tolist() == [1] * 4


def test_a_repeat_before_any_step_is_a_run_of_its_own_seed():
    """In bases of its own too."""
    start = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)).double()

    def made(seed: int) -> tuple[SubZero, Callable[[], Tensor]]:
        theta = nn.Parameter(start.clone())
        return SubZero([theta], lr=0.01, eps=1e-3, rank=2, seed=seed), lambda: theta.square().sum()

    optimizer, loss = made(7)
    (probe,) = find_lr(optimizer, [loss], rates=[0.01], steps=2, repeats=2).probes
    changes = []
    for repeat in range(2):
        optimizer, loss = made(mix64(7, repeat, -8))
        for _ in range(2):
            optimizer.step(loss)
        changes.append(float(loss().detach() - start.square().sum()))
    assert probe.change == pytest.approx(sum(changes) / 2, rel=1e-9)


def test_a_held_loss_an_example_counts_by_its_mean_in_full_precision():
    theta = nn.Parameter(torch.ones(3))
    held = [lambda: torch.tensor([1.0, 1.0078125], dtype=torch.bfloat16)]
    found = find_lr(
        mezo([theta], lr=0.1), [lambda: theta.sum()], held=held, rates=[0.1], steps=1, repeats=2
    )
    assert found.loss == 1.00390625


def test_nothing_is_recommended_where_the_held_loss_falls_by_chance():
    """Training batches that say nothing about what is held."""
    theta = nn.Parameter(torch.ones(20))
    slopes = torch.randn(60, 20, generator=torch.Generator().manual_seed(0))
    other = torch.randn(20, generator=torch.Generator().manual_seed(1))
    found = find_lr(
        MeZO([theta], lr=1e-3, eps=1e-3),
        [lambda slope=slope: slope @ theta for slope in slopes],
        held=[lambda: other @ theta],
        steps=4,
    )
    assert found.lr is None and max(abs(probe.score) for probe in found.probes) < 3
    assert found.reason.startswith(
        "no rate is recommended: at none does the loss fall by 3 standard errors (at "
    )
    assert len(found.probes) <= 4  # a line goes up by chance as well as down, at every rate alike


def test_the_reason_says_what_comes_next():
    theta = nn.Parameter(torch.ones(8))
    make = functools.partial(find_lr, MeZO([theta], lr=1e-2, eps=1e-3), steps=6)

    def reason(loss: Callable[[], Any], *rates: float) -> str:
        found = make([loss], rates=rates)
        assert found.reason.startswith(f"{found.lr or 'no rate'} is recommended")
        return found.reason

    def bowl() -> Tensor:
        return theta.square().sum()

    def cliff() -> Tensor:
        return bowl() if theta.abs().max() < 5 else bowl() * math.nan

    assert reason(bowl, 1e-3, 1e-2).endswith("; no greater rate was tried, and one may be better")
    assert "; at 0.3 it rises by " in reason(bowl, 1e-2, 0.3)
    assert reason(bowl, 1e-2, 0.3).endswith("; no smaller rate was tried")
    assert "; at 10 it diverges" in reason(cliff, 1e-3, 1e-2, 10.0)
    assert reason(cliff, 10.0, 30.0).startswith("no rate is recommended: every one diverged")
    assert theta.tolist() == [1] * 8


def test_the_table_marks_the_rate():
    theta = nn.Parameter(torch.ones(8))
    found = find_lr(MeZO([theta], lr=1e-2, eps=1e-3), [lambda: theta.square().sum()], steps=6)
    heading, *rows, reason = str(found).splitlines()
    assert heading.split() == ["lr", "change", "error", "change/error"]
    assert [row.split()[0] for row in rows if row.endswith("<")] == [f"{found.lr:g}"]
    assert len(rows) == len(found.probes) and reason == found.reason


def test_a_first_order_baseline_is_tested_too():
    theta = nn.Parameter(torch.ones(8))
    sgd = FirstOrder([theta], algorithm=functools.partial(torch.optim.SGD, lr=1e-3))
    found = find_lr(sgd, [lambda: theta.square().sum()], steps=3, repeats=2)
    assert found.lr == 0.3  # theta <- (1 - 2 lr) theta: 0.3 leaves 0.4, 1 leaves -1 in each step
    assert found.probes[-1].lr == 1.0 and found.probes[-1].change == 0


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({"rates": [0.1, 0.0]}, "rates: 0.0 is none; positive, finite numbers are valid"),
        ({"rates": [0.1, 0.1]}, "rates=[0.1, 0.1]: one of them is there twice"),
        ({"rates": ["x"]}, "rates=['x']: a list of numbers is valid"),
        ({"rates": []}, "rates: the list is empty; one rate or more is valid"),
        ({"steps": 0}, "steps=0: a whole number, 1 or more, is valid"),
        ({"repeats": 1}, "repeats=1: a whole number, 2 or more, is valid"),
        ({"least_score": math.nan}, "least_score=nan: a positive number is valid"),
        ({"least_score": "3"}, "least_score='3': a positive number is valid"),
        ({"held": []}, "held: a list of closures is valid, each () -> the loss of one batch"),
        (
            {"held": [lambda: 1.0, lambda: math.nan]},
            "held[1]() returned nan before any step; a finite loss is valid",
        ),
        (
            {"closures": [lambda: 2.5], "held": [lambda: 2.5]},
            "closures: the loss stays 2.5 along every direction of 2 x 20 steps, so that nothing"
            " can be learnt from it; one that depends on the parameters, and an eps that their"
            " type does not round away, is valid",
        ),
    ],
)
def test_what_cannot_be_judged_is_one_line(more: dict[str, Any], line: str):
    theta = nn.Parameter(torch.ones(3))
    optimizer = MeZO([theta], lr=0.1, eps=1e-3)
    arguments = {"closures": [lambda: theta.square().sum()], "repeats": 2, **more}
    with pytest.raises(OptimError) as raised:
        find_lr(optimizer, **arguments)
    assert str(raised.value) == line


def test_an_optimizer_that_is_in_the_middle_of_something_is_refused():
    theta = nn.Parameter(torch.ones(3))

    def loss() -> Tensor:
        return theta.square().sum()

    optimizer = MeZO([theta], lr=0.1, eps=1e-3)
    with pytest.raises(NonFiniteLoss):
        optimizer.step(lambda: math.nan)
    with pytest.raises(OptimError, match="its last step raised NonFiniteLoss and is pending"):
        find_lr(optimizer, [loss], rates=[0.1])
    optimizer.skip()
    loss().backward()
    with pytest.raises(OptimError, match="a parameter has a gradient pending"):
        find_lr(optimizer, [loss], rates=[0.1])
    optimizer.zero_grad()
    optimizer.lr = 0.0
    with pytest.raises(OptimError, match="lr is 0 in every group"):
        find_lr(optimizer, [loss], rates=[0.1])
    with pytest.raises(OptimError, match="optimizer=SGD: one of this library's is valid"):
        find_lr(torch.optim.SGD([theta], lr=0.1), [loss], rates=[0.1])


@pytest.mark.parametrize(("cls", "options"), [(LOZOM, {}), (SubZero, {"momentum": 0.9})])
def test_a_trial_goes_on_with_the_momentum_that_is_kept_in_a_basis(cls: Any, options: Any) -> None:
    theta = nn.Parameter(
        torch.randn(40, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    )
    optimizer = cls([theta], lr=1e-4, eps=1e-3, rank=2, interval=50, seed=1, **options)
    for _ in range(20):
        optimizer.step(lambda: theta.square().sum())
    before = theta.detach().clone()
    flat = [lambda: 1.0]  # what moves theta is the momentum alone
    with range_test._Start(optimizer).kept() as start:
        start.begin(1e-4, 0)
        start.step(flat[0])
        tried = theta.detach() - before
    optimizer.step(flat[0])
    torch.testing.assert_close(tried, theta.detach() - before, rtol=1e-9, atol=0)
    assert tried.abs().max() > 0


@pytest.mark.parametrize(("ends_at", "diverges"), [(0.1, True), (0.0, False), (-1.0, False)])
def test_a_rate_at_which_every_batch_has_the_same_loss_diverges(ends_at: float, diverges: bool):
    """Such is a model that has collapsed: its loss may be lower than before. A loss of 0 of every
    batch, or the best reward, is that of one which has learnt all of them."""
    theta = nn.Parameter(torch.ones(8))

    def loss(batch: int) -> float:
        return ends_at if theta.detach().abs().max() > 50 else float(theta.detach().sum()) + batch

    batches = [lambda batch=batch: loss(batch) for batch in range(4)]
    found = find_lr(mezo([theta], lr=1e-3), batches, rates=[1e-3, 1e3], steps=3, repeats=3)
    small, large = found.probes
    assert not small.diverged and large.diverged == diverges
    assert (found.lr == 1e3) == (not diverges)
    alone = find_lr(mezo([theta], lr=1e-3), batches[:1], rates=[1e3], steps=3, repeats=3)
    assert not alone.probes[0].diverged  # one batch cannot tell


def test_a_rate_that_leaves_nothing_alive_diverges():
    theta = nn.Parameter(torch.ones(8))
    batches = [lambda: float(theta.detach().sum())]
    found = find_lr(
        mezo([theta], lr=1e-3),
        batches,
        alive=lambda: bool(theta.detach().abs().max() < 50),
        rates=[1e-3, 1e3],
        steps=3,
        repeats=3,
    )
    assert [probe.diverged for probe in found.probes] == [False, True]
