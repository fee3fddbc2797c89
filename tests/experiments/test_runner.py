"""The loop that is the same for every method, on a model of four weights."""

import math
import os
import signal
from functools import partial
from statistics import fmean
from typing import Any

import pytest
import torch

import bszo
from bszo.errors import Collapsed, ConfigError, DataError, NonFiniteLoss
from bszo.models import Score
from tests.experiments.conftest import Bench, Lines

MEZO = partial(bszo.MeZO, lr=0.1, eps=1e-3, seed=0)
METHODS = {
    "mezo": MEZO,
    "bszo": partial(bszo.BSZO, lr=0.1, eps=1e-3, prior_var=1.0, noise_var=1.0, seed=0),
    "hizoo": partial(bszo.HiZOO, lr=0.1, eps=1e-3, seed=0),
    "lozo": partial(bszo.LOZO, lr=0.1, eps=1e-3, seed=0),
    "adamw": partial(bszo.FirstOrder, algorithm=partial(torch.optim.AdamW, lr=0.1)),
}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_learns_through_the_same_loop(name: str, bench: Bench):
    runner = bench.runner(METHODS[name], num_steps=100)
    runner.run()
    result = runner.result
    assert result.zero_shot_accuracy is not None and result.test_accuracy is not None
    assert result.zero_shot_accuracy == 0.0
    assert result.test_accuracy > 0.8
    assert result.num_steps == 100
    assert [point["step"] for point in result.curve] == list(range(0, 101, 10))


def test_every_method_sees_the_same_batches():
    seen = {}
    for name, method in METHODS.items():
        model = Lines()
        Bench(model).runner(method, num_steps=30, seed=3).run()
        seen[name] = model.seen
    assert len(set(map(tuple, seen.values()))) == 1
    assert [step for step, *_ in seen["mezo"]] == list(range(30))
    other = Lines()
    Bench(other).runner(MEZO, num_steps=30, seed=4).run()
    assert other.seen != seen["mezo"]


def test_the_same_seed_gives_the_same_bits():
    weights = []
    for _ in range(2):
        bench = Bench()
        bench.runner(METHODS["bszo"]).run()
        weights.append(bench.model.module.weight.detach().clone())
    assert torch.equal(*weights)


@pytest.mark.parametrize(("name", "cost"), [("mezo", 2), ("bszo", 3), ("adamw", 3)])
def test_max_forwards_is_never_exceeded_and_used_up(name: str, cost: int, bench: Bench):
    """A backward pass counts as two forward passes."""
    runner = bench.runner(METHODS[name], num_steps=10_000, max_forwards=100)
    runner.run()
    optimizer = runner.optimizer
    assert optimizer.num_forwards + 2 * optimizer.num_backwards == 100 - 100 % cost
    assert runner.result.curve[-1]["step"] == 100 // cost  # the last steps are evaluated too


def test_a_budget_below_one_step_is_refused(bench: Bench):
    """How much a step takes is known after the first: a record of more than was allowed is none."""
    runner = bench.runner(METHODS["bszo"], num_steps=10, max_forwards=2)
    with pytest.raises(ConfigError, match=r"max_forwards=2: a step takes 3 forward passes"):
        runner.run()


@pytest.mark.parametrize("max_forwards", [98, 99, 100, 101])
def test_steps_of_different_lengths_stay_within_the_forwards(max_forwards: int, bench: Bench):
    """The run ends at the first step that would not fit, be the one before longer or shorter."""
    method = partial(MEZO, lr=0.01, estimator="p4")
    runner = bench.runner(method, num_steps=10_000, max_forwards=max_forwards)
    runner.run()
    spent, next_step = runner.optimizer.num_forwards, runner.optimizer.next_forwards()
    assert next_step in (3, 4)
    assert spent <= max_forwards < spent + next_step
    assert runner.result.curve[-1]["num_forwards"] == spent


def test_selection_takes_the_first_best_and_the_test_split_is_scored_for_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
):
    runner = bench.runner(MEZO, num_steps=40)
    scores = iter([0.9, 0.2, 0.6, 0.6, 0.5])  # zero-shot, then four evaluations
    weights: list[torch.Tensor] = []
    tested: list[torch.Tensor] = []

    def scored(model: Any, encoded: Any, max_tokens: int) -> Score:
        del max_tokens
        if encoded is runner.parts.test:
            tested.append(model.module.weight.detach().clone())
            return Score(0.33, 1.0)
        weights.append(model.module.weight.detach().clone())
        return Score(next(scores), 1.0)

    monkeypatch.setattr("experiments.training.runner.evaluate", scored)
    runner.run()
    result = runner.result
    assert (result.best_step, result.validation_accuracy, result.test_accuracy) == (20, 0.6, 0.33)
    assert len(tested) == 2  # zero-shot and selected, never in between
    assert torch.equal(tested[0], weights[0])
    assert torch.equal(tested[1], weights[2])
    assert not torch.equal(weights[2], weights[4])


def test_the_validation_loss_is_that_of_all_rows_at_the_point_s_parameters(bench: Bench):
    runner = bench.runner(MEZO, num_steps=20)
    runner.run()
    rows: Any = runner.parts.validation
    x, labels = torch.stack([row.point for row in rows]), torch.tensor([row.label for row in rows])
    start = torch.nn.functional.cross_entropy(0.05 * x, labels).item()
    point = runner.result.curve[0]
    assert point["step"] == 0 and point["validation_loss"] == pytest.approx(start, rel=1e-6)
    assert runner.result.curve[-1]["validation_loss"] < start


def test_the_training_loss_of_a_point_is_the_mean_since_the_point_before(bench: Bench):
    runner = bench.runner(MEZO, num_steps=20)
    step, losses = runner.optimizer.step, []

    def spy(closure: Any) -> float:
        losses.append(float(step(closure)))
        return losses[-1]

    runner.optimizer.step = spy
    runner.run()
    said = [point["train_loss"] for point in runner.result.curve]
    assert said == [None, *(pytest.approx(fmean(losses[at : at + 10])) for at in (0, 10))]


def test_patience_counts_evaluations_without_a_better_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
):
    # test, validation zero-shot, then evaluations
    scores = iter([0.1, 0.1, 0.5, 0.5, 0.4, 0.5, 0.9])
    monkeypatch.setattr("experiments.training.runner.evaluate", lambda *_: Score(next(scores), 1.0))
    runner = bench.runner(MEZO, num_steps=1000, patience=2)
    runner.run()
    assert runner.result.num_steps == 30
    assert runner.result.best_step == 10


@pytest.mark.parametrize("at_start", [False, True])
def test_a_model_that_says_the_same_of_every_row_ends_the_run(
    at_start: bool, bench: Bench, monkeypatch: pytest.MonkeyPatch
):
    """Its loss is finite and lower than at first. A head of zeros begins so, and is no failure."""
    dead = Score(0.5, math.log(2), mute=True)
    # test and validation zero-shot, then evaluations after 10 steps each
    first = Score(0.6, 0.9, mute=at_start)
    scores = iter([Score(0.6, 1.0), first, Score(0.7, 0.8), *[dead] * 9])
    monkeypatch.setattr("experiments.training.runner.evaluate", lambda *_: next(scores))
    runner = bench.runner(MEZO, num_steps=40)
    if at_start:
        runner.run()
        assert runner.guards.state()["mute"]  # a run that goes on knows it
        assert runner.result.num_steps == 40 and runner.result.test_accuracy == 0.5
        return
    with pytest.raises(Collapsed, match=r"step 20: .* it says the same of all \d+ rows"):
        runner.run()
    result = runner.result
    assert (result.num_steps, result.best_step, result.test_accuracy) == (20, 10, None)
    assert [point["step"] for point in result.curve] == [0, 10]


def test_nan_ends_the_run_with_what_is_known():
    runner = Bench(Lines(poison_at=15)).runner(MEZO)
    with pytest.raises(NonFiniteLoss):
        runner.run()
    assert runner.result.num_steps == 15
    assert runner.result.best_step == 10
    assert runner.result.test_accuracy is None


def test_linear_schedule_falls_to_zero_with_the_budget(bench: Bench):
    rates = []
    runner = bench.runner(MEZO, num_steps=10_000, max_forwards=40, lr_schedule="linear")
    step = runner.optimizer.step

    def spy(closure: Any) -> float:
        rates.append(runner.optimizer.param_groups[0]["lr"])
        return step(closure)

    runner.optimizer.step = spy
    runner.run()
    assert rates == pytest.approx([0.1 * (1 - done / 20) for done in range(20)])


def test_no_steps_leave_zero_shot_only(bench: Bench):
    runner = bench.runner(MEZO, num_steps=0)
    runner.run()
    assert runner.result.best_step is None
    assert runner.result.test_accuracy is None
    assert len(runner.result.curve) == 1


def test_batch_larger_than_the_split_stops_before_anything_runs(bench: Bench):
    with pytest.raises(DataError, match="65"):
        bench.runner(MEZO, batch_size=65)
    assert bench.model.seen == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_step(number: signal.Signals, bench: Bench):
    before = signal.getsignal(number)  # a shell's `nohup ... &` has SIGINT ignored from the start
    runner = bench.runner(MEZO)
    step = runner.optimizer.step

    def interrupted_step(closure: Any) -> float:
        if runner.result.num_steps == 12:
            os.kill(os.getpid(), number)
        return step(closure)

    runner.optimizer.step = interrupted_step
    with runner.signals, pytest.raises(KeyboardInterrupt, match=number.name):
        runner.run()
    assert runner.result.num_steps == runner.optimizer.num_steps == 13
    assert signal.getsignal(number) is before


def test_a_second_signal_does_not_wait(bench: Bench):
    runner = bench.runner(MEZO)

    def stuck_step(_: Any) -> float:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the second signal should have ended the step")

    runner.optimizer.step = stuck_step
    with runner.signals, pytest.raises(KeyboardInterrupt):
        runner.run()


def test_meters_keep_the_clocks_apart(bench: Bench):
    runner = bench.runner(MEZO)
    runner.run()
    meters = runner.meters
    assert meters.peak_memory_kind == "resident_set"
    # torch alone is more
    assert meters.peak_memory_bytes is not None and meters.peak_memory_bytes > 50e6
    assert len(meters.step_ms) == 40
    assert meters.train_seconds >= sum(meters.step_ms) / 1000 > 0
    assert meters.evaluation_seconds > 0
    assert math.isclose(runner.result.curve[-1]["train_seconds"], meters.train_seconds)


def test_how_often_a_tracker_is_told_changes_no_warning():
    """They are in the record, and the tracker is not in its signature."""
    found = []
    for log_every in (1, 7, 10):
        bench = Bench()
        with torch.no_grad():
            bench.model.module.weight.copy_(torch.tensor([[0.5, -0.3], [0.2, 0.4]]))
        runner = bench.runner(partial(MEZO, lr=1e-12), num_steps=40)
        runner.log_every = log_every
        runner.run()
        found.append(runner.guards.warnings)
    assert found[0]["swallowed_update"]["count"] == 4
    assert found[0] == found[1] == found[2]
