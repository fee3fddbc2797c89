"""Numbers that go wrong without a crash: each is seen at its step, said once, counted, and never a
number itself."""

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bszo
from bszo.errors import NonFiniteLoss
from bszo.models import Score
from bszo.optim.report import StepReport
from bszo.trajectory import TrajectoryWriter, describe, read, record, replay
from experiments import check_drift
from experiments.records import store
from experiments.training.guards import (
    MOST_SKIPPED,
    WINDOW,
    Diverged,
    Guards,
    float32_spacing,
    share_unmoved,
)
from tests.experiments.conftest import Bench, Lines
from tests.experiments.runs import configuration, make_model, run_here

METHODS: dict[str, Callable[..., Any]] = {
    "bszo": partial(bszo.BSZO, lr=0.1, eps=1e-3, prior_var=1.0, noise_var=1.0),
    "mezo": partial(bszo.MeZO, lr=0.1, eps=1e-3),
    "mezo-adam": partial(bszo.MeZOAdam, lr=0.1, eps=1e-3),
    "hizoo": partial(bszo.HiZOO, lr=0.1, eps=1e-3),
    "lozo": partial(bszo.LOZO, lr=0.1, eps=1e-3),
    "walk": partial(bszo.MeZO, lr=0.1, eps=1e-2, perturbation="three-leg"),
    "adamw": partial(bszo.FirstOrder, algorithm=partial(torch.optim.AdamW, lr=0.1)),
}


class Problem:
    """A line fitted to points, whose loss can be spoilt from a call on."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        torch.manual_seed(0)
        self.module = nn.Linear(8, 2).to(dtype)
        self.x, self.labels = torch.randn(16, 8).to(dtype), torch.arange(16) % 2
        self.num_calls, self.spoilt, self.value = 0, range(0), math.nan

    def __call__(self) -> Tensor:
        loss = nn.functional.cross_entropy(self.module(self.x).float(), self.labels)
        self.num_calls += 1
        return loss * self.value if self.num_calls - 1 in self.spoilt else loss

    def weights(self) -> list[Tensor]:
        return [p.detach().clone() for p in self.module.parameters()]


def guarded(problem: Problem, name: str, policy: Any, **arguments: Any) -> Guards:
    parameters = list(problem.module.parameters())
    return Guards(METHODS[name](parameters, **arguments), parameters, policy)


def step(guards: Guards, problem: Problem, number: int, thorough: bool = False) -> float | None:
    """As the runner takes it; None where it was skipped."""
    loss = None
    with guards.watch(number, thorough=thorough):
        loss = float(guards.optimizer.step(problem))
    return loss


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", METHODS)
def test_a_skipped_step_leaves_every_bit(name: str, dtype: torch.dtype):
    problem = Problem(dtype)
    guards = guarded(problem, name, "skip")
    for number in range(3):
        assert step(guards, problem, number) is not None
    before = problem.weights()
    for number in range(3, 5):
        problem.spoilt = range(problem.num_calls, problem.num_calls + 3)
        assert step(guards, problem, number) is None
        assert same(problem.weights(), before)
        problem.spoilt = range(0)
    assert guards.optimizer.num_steps == 5
    (warning,) = guards.warnings.values()
    assert (warning["count"], warning["first_step"]) == (2, 3)
    assert step(guards, problem, 5) is not None
    assert not same(problem.weights(), before)


def test_stop_says_it_and_raises(caplog: pytest.LogCaptureFixture):
    problem = Problem()
    guards = guarded(problem, "bszo", "stop")
    problem.spoilt = range(0, 1)
    with pytest.raises(NonFiniteLoss):
        step(guards, problem, 7)
    assert guards.warnings == {
        "nonfinite_loss": {
            "count": 1,
            "first_step": 7,
            "detail": "step 0: the loss is nan, not a finite number",
        }
    }
    assert "step 7: nonfinite_loss" in caplog.text


def test_overflow_of_a_perturbed_pass_has_its_own_name():
    problem = Problem()
    guards = guarded(problem, "bszo", "skip")
    problem.spoilt, problem.value = range(1, 2), math.inf  # f_0 is finite, f_plus is not
    step(guards, problem, 0)
    (detail,) = [warning["detail"] for warning in guards.warnings.values()]
    assert list(guards.warnings) == ["perturbed_overflow"]
    assert "the loss of a perturbed pass is inf" in detail and "(the loss at theta is 0." in detail


def test_more_than_a_hundred_skips_in_a_row_have_diverged(caplog: pytest.LogCaptureFixture):
    problem = Problem()
    guards = guarded(problem, "mezo", "skip")
    problem.spoilt = range(0, 10_000)
    with pytest.raises(Diverged, match="101 steps"):
        for number in range(1000):
            step(guards, problem, number)
    assert guards.warnings["nonfinite_loss"]["count"] == MOST_SKIPPED + 1
    assert caplog.text.count("nonfinite_loss") == 1  # said once


def test_a_skipped_step_is_in_the_trajectory(tmp_path: Path):
    problem, again = Problem(), Problem()
    guards = guarded(problem, "bszo", "skip")
    base = "0" * 64
    with TrajectoryWriter(tmp_path / "log", describe(guards.optimizer, base=base)) as writer:
        record(guards.optimizer, writer)
        for number in range(6):
            problem.spoilt = (
                range(problem.num_calls + 1, problem.num_calls + 2) if number == 2 else range(0)
            )
            step(guards, problem, number)
    optimizer = METHODS["bszo"](again.module.parameters())
    replay(read(tmp_path / "log"), optimizer, base=base)
    assert same(again.weights(), problem.weights())
    assert optimizer.num_forwards == guards.optimizer.num_forwards == 5 * 3 + 2


@pytest.mark.parametrize("cov", [[[1.0, 2.0], [2.0, 1.0]], [[math.nan, 0.0], [0.0, 1.0]]])
def test_a_posterior_that_is_none(monkeypatch: pytest.MonkeyPatch, cov: list[list[float]]):
    problem = Problem()
    guards = guarded(problem, "bszo", "stop")
    step(guards, problem, 0)
    assert guards.warnings == {}
    sound = guards.optimizer.step

    def spoilt(closure: Any) -> float:
        loss = sound(closure)
        object.__setattr__(guards.optimizer.last, "cov", torch.tensor(cov, dtype=torch.float64))
        return loss

    monkeypatch.setattr(guards.optimizer, "step", spoilt)
    step(guards, problem, 1)
    warning = guards.warnings["posterior_not_positive_definite"]
    assert (warning["count"], warning["first_step"]) == (1, 1)
    assert ("-1" if cov[0][0] == 1 else "nan") in warning["detail"]


@pytest.mark.parametrize(("eps", "coarse"), [(1e-3, False), (1e-9, True)])
def test_differences_below_the_loss_s_own_spacing(eps: float, coarse: bool):
    problem = Problem()
    guards = guarded(problem, "mezo", "stop", lr=0.0, eps=eps)
    for number in range(WINDOW + 5):
        step(guards, problem, number)
    assert ("coarse_loss" in guards.warnings) is coarse
    if coarse:
        assert guards.warnings["coarse_loss"]["first_step"] == WINDOW - 1
        assert guards.warnings["coarse_loss"]["count"] == 6


class Scripted:
    """An optimizer that moves nothing and reports what it is told."""

    per_example, perturbation, last = False, "exact", StepReport(1.0, ())

    def __init__(self) -> None:
        self.param_groups = [{"lr": 0.1}]

    def skip(self) -> None:
        pass


def told(guards: Guards, number: int, *, spacings: int, thorough: bool = False, **report: Any):
    """A step whose two losses are so many float32 spacings apart, 2^-23 at 1."""
    with guards.watch(number, thorough=thorough):
        losses = 1.0, 1.0 + spacings * 2.0**-23
        guards.optimizer.last = StepReport(1.0, **{"observations": (1.0,), **report}, losses=losses)


@pytest.mark.parametrize(("spacings", "coarse"), [(1, True), (3, True), (4, False)])
def test_fewer_than_four_spacings_are_coarse(spacings: int, coarse: bool):
    """In a run of any length; and one spacing is not none at all."""
    for length in (9, WINDOW):
        guards = Guards(Scripted(), [torch.ones(1)], "stop")
        for number in range(length):
            told(guards, number, spacings=spacings)
        guards.optimizer.param_groups = []  # an unmoved parameter is as asked
        guards.conclude(length)
        assert list(guards.warnings) == ["coarse_loss"] * coarse


@pytest.mark.parametrize("length", [10, WINDOW])
def test_half_of_the_steps_may_be_coarse_and_one_more_may_not(length: int):
    for more in (0, 1):
        guards = Guards(Scripted(), [torch.ones(1)], "stop")
        for number in range(length):
            told(guards, number, spacings=1 if number < length // 2 + more else 100)
        guards.optimizer.param_groups = []
        guards.conclude(length)
        assert list(guards.warnings) == ["coarse_loss"] * more


def test_skipped_steps_are_in_a_row_only_where_none_between_them_is_sound():
    guards = Guards(Scripted(), [torch.ones(1)], "skip")
    for number in range(3 * MOST_SKIPPED):
        if number % MOST_SKIPPED == 0:
            told(guards, number, spacings=100)
            continue
        with guards.watch(number, thorough=False):
            raise NonFiniteLoss(number, math.nan)
    assert guards.warnings["nonfinite_loss"]["count"] == 3 * (MOST_SKIPPED - 1)


@pytest.mark.parametrize(
    ("observations", "swallowed"), [((0.0, 0.0), False), ((0.0, 1.0), True), ((), True)]
)
def test_a_step_along_one_of_two_directions_has_an_update(
    observations: tuple[float, ...], swallowed: bool
):
    guards = Guards(Scripted(), [torch.ones(8)], "stop")
    told(guards, 0, spacings=100, thorough=True, observations=observations)
    assert list(guards.warnings) == ["swallowed_update"] * swallowed


@pytest.mark.parametrize(("moved", "swallowed"), [(0, True), (5, True), (20, False)])
def test_one_weight_in_a_hundred_may_move_alone(moved: int, swallowed: bool):
    weights = torch.ones(1000)
    guards = Guards(Scripted(), [weights], "stop")
    with guards.watch(0, thorough=True):
        weights[:moved] += 1
        guards.optimizer.last = StepReport(1.0, (1.0,))
    assert list(guards.warnings) == ["swallowed_update"] * swallowed


def test_a_rate_of_0_in_one_group_excuses_no_other():
    for rates, said in (((0.0, 0.0), False), ((0.0, 0.1), True)):
        guards = Guards(Scripted(), [torch.ones(8)], "stop")
        guards.optimizer.param_groups = [{"lr": rate} for rate in rates]
        told(guards, 0, spacings=100)
        guards.conclude(1)
        assert list(guards.warnings) == ["unchanged_parameters"] * said


def passed_on(guards: Guards) -> Guards:
    """Those of the part of a run that goes on from a checkpoint of this one."""
    later = Guards(Scripted(), guards.parameters, guards.policy)
    later.load(guards.state())
    return later


def test_a_window_of_coarse_losses_spans_a_stop():
    guards = Guards(Scripted(), [torch.ones(1)], "stop")
    for number in range(WINDOW + 1):
        told(guards, number, spacings=1)
        guards = passed_on(guards)
    assert guards.warnings["coarse_loss"]["first_step"] == WINDOW - 1
    assert guards.warnings["coarse_loss"]["count"] == 2


def test_skipped_steps_in_a_row_are_so_across_a_stop():
    guards = Guards(Scripted(), [torch.ones(1)], "skip")
    with pytest.raises(Diverged, match="step 100: the last 101 steps"):
        for number in range(2 * MOST_SKIPPED):
            with guards.watch(number, thorough=False):
                raise NonFiniteLoss(number, math.nan)
            guards = passed_on(guards)


@pytest.mark.parametrize("first", [0, 100])
def test_equal_losses_are_those_of_all_parts_of_a_run(first: int):
    """Of the 3 steps before the stop and the 2 after it."""
    weights = torch.ones(1)
    guards = Guards(Scripted(), [weights], "stop")
    for number in range(3):
        told(guards, number, spacings=first)
        weights += 1
    guards = passed_on(guards)
    for number in range(3, 5):
        told(guards, number, spacings=0)
    guards.conclude(5)
    if first == 0:
        assert "in each of 5 steps" in guards.warnings["equal_losses"]["detail"]
        assert guards.warnings["equal_losses"]["first_step"] == 4
    else:
        assert not guards.warnings


def test_parameters_that_moved_before_a_stop_are_not_unchanged():
    weights = torch.ones(1)
    guards = Guards(Scripted(), [weights], "stop")
    told(guards, 0, spacings=100)
    weights += 1
    guards = passed_on(guards)
    for number in range(1, 3):
        told(guards, number, spacings=100)
    guards.conclude(3)
    assert not guards.warnings


def test_a_model_that_was_mute_is_so_after_a_stop():
    guards = Guards(Scripted(), [torch.ones(1)], "stop")
    guards.mute = True
    assert passed_on(guards).mute


@pytest.mark.parametrize("loss", [0.6931, 1.0, 2.0, 1e-3, 5000.0, 2.0**-126, 1e-40, 0.0])
def test_the_spacing_is_float32_s(loss: float):
    value = torch.tensor(loss, dtype=torch.float32)
    assert float32_spacing(float(value)) == float(
        torch.nextafter(value, torch.tensor(math.inf)) - value
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("eps", [1e-4, 1e-3, 1e-2])
def test_the_share_of_a_perturbation_that_rounds_back(dtype: torch.dtype, eps: float) -> None:
    """Against drawing z: weights of every size, a tenth of them zero."""
    generator = torch.Generator().manual_seed(0)
    theta = torch.randn(200_000, generator=generator) * torch.tensor(
        [1e-4, 0.02, 0.05, 1.0]
    ).repeat(50_000)
    theta = torch.where(torch.arange(200_000) % 10 == 0, 0.0, theta).to(dtype)
    moved = (theta.float() + eps * torch.randn(200_000, generator=generator)).to(dtype)
    expected = float((moved == theta).double().mean())
    assert float(share_unmoved(theta.float(), dtype, eps).mean()) == pytest.approx(
        expected, abs=0.01
    )


@pytest.mark.parametrize(
    ("dtype", "name", "eps", "said"),
    [
        (torch.bfloat16, "mezo", 1e-4, True),
        (torch.bfloat16, "mezo", 1e-2, False),
        (torch.float16, "mezo", 1e-4, False),
        (torch.bfloat16, "adamw", None, False),
        (torch.bfloat16, "lozo", 1e-4, True),
        (torch.bfloat16, "factored", 1e-4, False),
    ],
)
def test_a_perturbation_that_rounding_swallows(
    dtype: torch.dtype, name: str, eps: float | None, said: bool
) -> None:
    problem = Problem(dtype)
    more: dict[str, Any] = {"eps": eps} if eps else {}
    if name == "factored":
        name, more = "lozo", {**more, "perturbation": name, "module": problem.module}
    guards = guarded(problem, name, "stop", **more)
    step(guards, problem, 0)
    assert not guards.warnings  # it was not to look
    step(guards, problem, 1, thorough=True)
    assert ("swallowed_perturbation" in guards.warnings) is said
    if said:
        assert guards.warnings["swallowed_perturbation"]["first_step"] == 1


@pytest.mark.parametrize(
    ("dtype", "lr", "swallowed"),
    [
        (torch.bfloat16, 1e-6, True),
        (torch.bfloat16, 1.0, False),
        (torch.bfloat16, 0.0, False),
        (torch.float16, 1e-7, True),
        (torch.float32, 1e-6, False),
        (torch.float32, 1e-10, True),
        (torch.float64, 1e-10, False),
    ],
)
def test_an_update_that_rounding_swallows(dtype: torch.dtype, lr: float, swallowed: bool):
    problem = Problem(dtype)
    guards = guarded(problem, "mezo", "stop", lr=lr, eps=1e-2)
    step(guards, problem, 0)
    assert guards.warnings == {}  # it looks only where it is told to
    step(guards, problem, 1, thorough=True)
    assert ("swallowed_update" in guards.warnings) is swallowed


@pytest.mark.parametrize("wide", [False, True])
def test_stochastic_rounding_swallows_no_update(wide: bool):
    """On average it keeps an update that moves one weight in a thousand; a parameter in fp32 beside
    it is rounded to the nearest and still looked at."""
    problem = Problem(torch.bfloat16)
    parts = list(problem.module.parameters())
    parts += [nn.Parameter(torch.ones(5))] if wide else []
    optimizer = bszo.MeZO(parts, lr=1e-10, eps=1e-2, rounding="stochastic")
    guards = Guards(optimizer, parts, "stop")
    step(guards, problem, 0, thorough=True)
    assert ("swallowed_update" in guards.warnings) is wide


class Deep:
    """One parameter of 500 elements beside one of 2: a block's turn moves a share below 1 %."""

    def __init__(self, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        self.module = nn.ParameterList([torch.randn(500).to(dtype), torch.randn(2).to(dtype)])

    def __call__(self) -> Tensor:
        return sum((p.float().square().sum() for p in self.module), torch.zeros(()))


@pytest.mark.parametrize(
    ("dtype", "lr", "swallowed"), [(torch.float32, 1e-3, False), (torch.bfloat16, 1e-7, True)]
)
@pytest.mark.parametrize("what", ["block", "mask"])
def test_what_a_step_was_not_to_move_is_not_swallowed(
    what: str, dtype: torch.dtype, lr: float, swallowed: bool
):
    problem: Any = Deep(dtype)
    parameters = list(problem.module)
    groups = [{"params": parameters[1:]}, {"params": parameters[:1]}]  # in another order
    if what == "block":
        optimizer = bszo.MeZOBCD(groups, lr=lr, eps=1e-2, blocks="tensor")
    else:
        optimizer = bszo.MeZO(groups, lr=lr, eps=1e-2).restrict(sparsity=0.994)
    guards = Guards(optimizer, parameters, "stop")
    before = parameters[0].detach().clone()
    step(guards, problem, 0, thorough=True)
    assert optimizer.last is not None
    assert optimizer.last.reach == pytest.approx((1, 0) if what == "block" else (0.006, 0.006))
    assert torch.equal(before, parameters[0]) is (what == "block" or swallowed)
    assert ("swallowed_update" in guards.warnings) is swallowed


def test_a_mask_below_a_hybrid_s_border_is_no_swallowed_update() -> None:
    """It moves one of 500 weights and the two above the border, fewer than one in a hundred."""
    problem: Any = Deep(torch.float32)
    parameters = list(problem.module)
    optimizer = bszo.Hybrid(
        parameters,
        zeroth_order=partial(bszo.MeZO, lr=1e-3, eps=1e-2),
        algorithm=partial(torch.optim.SGD, lr=1e-3),
        blocks="tensor",
        module=problem.module,
    ).restrict(sparsity=0.998)
    guards = Guards(optimizer, parameters, "stop")
    step(guards, problem, 0, thorough=True)
    assert not guards.warnings


def test_the_sample_is_small_whatever_the_model():
    big = [
        nn.Parameter(torch.zeros(1000, 1000, dtype=torch.bfloat16)),
        nn.Parameter(torch.zeros(3).bfloat16()),
    ]
    guards = Guards(bszo.MeZO(big, lr=1.0), list(big), "stop")
    before = guards._sample()
    assert 4000 < sum(len(part) for part, _ in before) < 4200
    with torch.no_grad():
        big[0][-1] = 1.0  # it is spread over all of a parameter
    after = guards._sample()
    assert not torch.equal(before[0][0], after[0][0]) and torch.equal(before[1][0], after[1][0])


# --- the whole run ---


class Spoilt(Lines):
    """NaN on some batches."""

    def loss(self, batch: Any) -> Tensor:
        return super().loss(batch) * (math.nan if len(self.seen) in (4, 5, 12) else 1)


def test_a_run_that_skips_goes_on_and_says_so():
    runner = Bench(Spoilt()).runner(METHODS["mezo"], on_nonfinite="skip")
    runner.run()
    assert runner.result.num_steps == runner.optimizer.num_steps == 40
    assert runner.guards.warnings["nonfinite_loss"]["count"] == 3
    assert runner.result.test_accuracy is not None and runner.result.test_accuracy > 0.8
    assert [point["step"] for point in runner.result.curve] == [0, 10, 20, 30, 40]


def test_no_finite_step_since_the_last_evaluation_has_diverged():
    """Whatever the interval: a run whose every step is skipped must not end well."""
    runner = Bench(Lines(poison_at=20)).runner(METHODS["mezo"], on_nonfinite="skip")
    with pytest.raises(Diverged, match="step 30: no step since the evaluation at step 20 had a fi"):
        runner.run()
    assert [point["step"] for point in runner.result.curve] == [0, 10, 20]
    never = Bench(Lines(poison_at=0)).runner(METHODS["mezo"], on_nonfinite="skip", num_steps=3)
    with pytest.raises(Diverged, match="step 3: no step since the evaluation at step 0 had"):
        never.run()


@pytest.mark.parametrize(
    ("protocol", "poisoned"),
    [({"eval_every": 1}, 6), ({"eval_every": 4, "num_steps": 9}, 9)],
)
def test_one_skipped_step_before_an_evaluation_is_no_divergence(
    protocol: dict[str, int], poisoned: int
):
    class Once(Lines):
        def loss(self, batch: Any) -> Tensor:
            return super().loss(batch) * (math.nan if len(self.seen) == poisoned else 1)

    runner = Bench(Once()).runner(METHODS["mezo"], on_nonfinite="skip", **protocol)
    runner.run()
    at = {point["step"]: point["train_loss"] for point in runner.result.curve}
    assert at[poisoned] is None and runner.result.test_accuracy is not None


@pytest.mark.parametrize("budget", [12, 13, 14])
def test_a_skipped_step_is_no_price_of_the_next(budget: int):
    """Of BSZO's three passes the first is not finite: the next step takes three again."""

    class Once(Lines):
        calls = 0

        def loss(self, batch: Any) -> Tensor:
            self.calls += 1
            return super().loss(batch) * (math.nan if self.calls == 10 else 1)

    runner = Bench(Once()).runner(METHODS["bszo"], on_nonfinite="skip", max_forwards=budget)
    runner.run()
    assert runner.optimizer.num_forwards <= budget < runner.optimizer.num_forwards + 3


class Rising(Lines):
    """Losses, also those of the validation rows, as if the model were sharper and sharper."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def logits(self, encoded: list[Any], *, max_tokens: int) -> Tensor:
        return super().logits(encoded, max_tokens=max_tokens) * self.factor ** len(self.seen)


@pytest.mark.parametrize(("factor", "rises"), [(1.0, False), (2.0, True)])
def test_a_loss_that_runs_away_is_in_the_record(factor: float, rises: bool):
    """Zero-shot every answer is wrong, and lr is next to 0: sharper scores are a larger loss."""
    runner = Bench(Rising(factor)).runner(partial(bszo.MeZO, lr=1e-5, eps=1e-3))
    runner.run()
    assert ("loss_rose" in runner.guards.warnings) is rises
    if rises:
        warning = runner.guards.warnings["loss_rose"]
        assert (warning["count"], warning["first_step"]) == (4, 9)
        assert "the validation loss is " in warning["detail"]


def test_where_scores_have_no_loss_a_rise_is_one_over_the_first_step(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
):
    """Written answers have none."""
    monkeypatch.setattr("experiments.training.runner.evaluate", lambda *_: Score(0.5, math.nan))
    runner = bench.runner(METHODS["mezo"], num_steps=3)
    step, losses = runner.optimizer.step, iter([0.5, 5.0, 5.0])

    def rising(closure: Any) -> float:
        step(closure)
        return next(losses)

    runner.optimizer.step = rising
    runner.run()
    assert runner.guards.warnings["loss_rose"]["detail"] == "the loss is 3.5, at the start 0.5"


@pytest.mark.parametrize(
    ("first", "last", "rose"),
    [(0.69, 29.0, True), (0.7, 1.4e6, True), (0.69, 2.3, False), (0.05, 0.9, False)],
)
def test_what_counts_as_a_rise(first: float, last: float, rose: bool):
    guards = guarded(Problem(), "mezo", "stop")
    guards.check_rise(7, "loss", first, last)
    assert (list(guards.warnings) == ["loss_rose"]) is rose


@pytest.mark.parametrize(
    ("lr", "eps", "kind"),
    [
        (0.1, 1e-3, None),
        (0.1, 1e-30, "equal_losses"),  # theta + eps z is theta
        (1e-12, 1e-3, "unchanged_parameters"),
        (0.0, 1e-3, None),  # as asked
    ],
)
def test_a_short_run_that_learns_nothing_says_so(lr: float, eps: float, kind: str | None):
    """Shorter than the window of coarse losses, and than the steps between two thorough looks."""
    model = Lines()
    with torch.no_grad():
        model.module.weight.add_(1.0)  # a weight of zero would move by anything
    runner = Bench(model).runner(partial(bszo.MeZO, lr=lr, eps=eps), num_steps=5)
    runner.run()
    assert list(runner.guards.warnings) == ([kind] if kind else [])
    if kind:
        assert runner.guards.warnings[kind]["count"] == 1
        runner.guards.conclude(5)  # as after a resume
        assert runner.guards.warnings[kind]["count"] == 1


@pytest.mark.parametrize(("eps", "kind"), [(1e-3, None), (1e-30, "equal_losses")])
def test_an_example_s_losses_are_compared_with_its_own(eps: float, kind: str | None) -> None:
    """They differ from one another whatever eps is. No weight is perturbed, which would round."""
    module = nn.Linear(8, 2).to(torch.bfloat16)
    x, parameters = torch.randn(16, 8).to(torch.bfloat16), list(module.parameters())
    guards = Guards(bszo.EachMeZO(parameters, lr=0.0, eps=eps, module=module), parameters, "stop")
    for number in range(3):
        with guards.watch(number, thorough=True):
            guards.optimizer.step(lambda: module(x).double().exp().sum(1))
    guards.conclude(3)
    assert list(guards.warnings) == ([kind] if kind else [])


def test_a_large_embedding_that_has_no_directions_is_no_swallowed_update() -> None:
    module = nn.Sequential(nn.Embedding(10_000, 8), nn.Linear(8, 2))
    parameters = list(module.parameters())
    guards = Guards(bszo.EachMeZO(parameters, lr=0.1, module=module), parameters, "stop")
    with guards.watch(0, thorough=True):
        guards.optimizer.step(lambda: module(torch.arange(5)).exp().sum(1))
    assert not guards.warnings


def test_coarse_losses_of_a_short_run_are_said():
    problem = Problem()
    guards = guarded(problem, "mezo", "stop", lr=0.0, eps=2e-7)
    for number in range(9):
        step(guards, problem, number)
    guards.conclude(9)
    assert list(guards.warnings) == ["coarse_loss"]


def test_diverged_is_in_the_record_and_no_nan_is(tmp_path: Path):
    model = make_model(tmp_path / "model")
    arguments = [
        "optimizer=mezo",
        "optimizer.lr=3e38",
        "protocol.on_nonfinite=skip",
        "protocol.num_steps=200",
        "protocol.eval_every=150",
    ]
    found, _ = run_here(configuration(model, tmp_path, *arguments))
    assert found["status"] == "diverged"
    (path,) = (tmp_path / "runs").iterdir()
    text = path.read_text()
    assert "NaN" not in text and "Infinity" not in text
    loaded = store.load(path)
    assert loaded["warnings"]["nonfinite_loss"]["count"] == MOST_SKIPPED + 1
    assert loaded["test_accuracy"] is None and json.loads(text)["validation_accuracy"] is None


# --- lr = 0 ---


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_check_drift(tmp_path: Path, capsys: pytest.CaptureFixture[str], precision: str):
    model = make_model(tmp_path / "model")
    small = ["model=local", f"model.path={model}", "task.num_train=16", "task.num_validation=8"]
    assert (
        check_drift.main([*small, f"precision={precision}", "steps=3", "eps=1e-2", "device=cpu"])
        == 0
    )
    rows = {
        line.split()[0]: float(line.split()[1]) for line in capsys.readouterr().out.splitlines()[2:]
    }
    assert list(rows) == list(check_drift.ENGINES)
    assert rows.pop("exact") == 0
    assert all(drift > 0 for drift in rows.values())


def test_check_drift_of_weights_that_are_zero(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    small = [
        "model=local",
        f"model.path={make_model(tmp_path / 'model')}",
        "task.num_train=16",
        "device=cpu",
    ]
    assert (
        check_drift.main([*small, "task.num_validation=8", "tuning=linear-probe", "steps=1"]) == 0
    )
    assert "exact              0.000e+00" in capsys.readouterr().out


@pytest.mark.parametrize("typed", ["optimizer=bszo", "optimizer.lr=1e-3", "+optimizer.lr=1e-3"])
def test_check_drift_is_of_mezo_at_rate_0(typed: str, capsys: pytest.CaptureFixture[str]):
    assert check_drift.main(["model=tiny-opt", typed]) == 1
    line = f"{typed}: it is MeZO that steps here, with optimizer.lr=0\n"
    assert capsys.readouterr().err == line


def test_check_drift_fails_where_exact_drifts(monkeypatch: pytest.MonkeyPatch):
    found = {engine: (0.0, 0.0) for engine in check_drift.ENGINES}
    monkeypatch.setattr(check_drift, "drifts", lambda _: found)
    assert check_drift.main([]) == 0
    found["exact"] = (1e-9, 0.1)
    assert check_drift.main([]) == 2


@pytest.mark.parametrize(
    "argument", ["model=tiny-robert", "model=null", "steps=${nope}", "step=3", "=3"]
)
def test_check_drift_s_wrong_argument_is_one_line(
    argument: str, capsys: pytest.CaptureFixture[str]
):
    assert check_drift.main([argument]) == 1
    assert capsys.readouterr().err.count("\n") == 1
