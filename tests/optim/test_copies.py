"""Copies: an optimizer that is copied with its module and its scheduler, by any way of copying,
goes on as the original would and leaves the original alone."""

import copy
import io
import itertools
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

from tests.squares import square

Make = Callable[..., nn.Module]


def halved(epoch: int) -> float:
    return 0.5**epoch


SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, halved),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, halved),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 1),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [1, 3]),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, total_iters=3),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, total_iters=3),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.5),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, total_iters=5),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 5),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o), lr_scheduler.ExponentialLR(o, 0.5)], milestones=[2]
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o), lr_scheduler.ExponentialLR(o, 0.5)]
    ),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 1e-3, 1e-2, 2, cycle_momentum=False),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 1e-2, 9, cycle_momentum=False),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0),
}
PARTS = {"LRScheduler"}  # a base of the others


def saved(parts: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(parts, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


WAYS = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda parts: pickle.loads(pickle.dumps(parts)),
    "save": saved,
}


def test_no_scheduler_of_torch_is_left_out() -> None:
    found = {
        name
        for name, made in vars(lr_scheduler).items()
        if isinstance(made, type) and issubclass(made, lr_scheduler.LRScheduler)
    }
    assert found - PARTS == set(SCHEDULERS) | (found & {"_LRScheduler"})


def go_on(parts: tuple[Any, Any, Any], steps: int) -> list[Any]:
    """Losses, rates and parameters of so many steps."""
    module, optimizer, scheduler = parts
    seen: list[Any] = []
    for _ in range(steps):
        loss = optimizer.step(module)
        plateau = isinstance(scheduler, lr_scheduler.ReduceLROnPlateau)
        scheduler.step(1.0) if plateau else scheduler.step()
        seen += [loss, [group["lr"] for group in optimizer.param_groups], weights(module)]
    return seen


def weights(module: nn.Module) -> list[list[float]]:
    return [p.detach().double().flatten().tolist() for p in module.parameters()]


# a scheduler with a fifth of the classes; every class meets three of them
@pytest.mark.parametrize(("name", "fifth"), square(SCHEDULERS, range(5)))
def test_the_copy_s_scheduler_and_step_move_the_copy(
    methods: dict[str, Any], problem: Make, name: str, fifth: int
) -> None:
    """Every class with every scheduler; ways of copying, and copies before and after steps, take
    turns."""
    classes = {method.make: method for method in methods.values()}
    classes = dict(list(classes.items())[fifth::5])
    turns = itertools.cycle(itertools.product(WAYS, (0, 2)))
    for _ in range(list(SCHEDULERS).index(name)):
        next(turns)
    for method, (way, before) in zip(classes.values(), turns, strict=False):
        module = problem()
        optimizer = method(module.parameters(), module=module)
        parts = (module, optimizer, SCHEDULERS[name](optimizer))
        with warnings.catch_warnings():
            # of a copy that was made before the first step, as of torch's own optimizers
            warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*|.*epoch.*")
            go_on(parts, before)
            copied = WAYS[way](parts)
            untouched = weights(module)
            seen = go_on(copied, 2)
            assert weights(module) == untouched and optimizer.num_steps == before
            assert copied[1].num_steps == before + 2
            assert repr(go_on(parts, 2)) == repr(seen)


def test_what_stands_in_for_a_method_and_hooks_stay_with_the_original(
    method: Any, problem: Make
) -> None:
    module = problem()
    optimizer = method(module.parameters())
    calls: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("hook"))
    plain = optimizer.step
    optimizer.step = lambda closure: (calls.append("wrapper"), plain(closure))[1]
    twin, second = copy.deepcopy((module, optimizer))
    second.step(twin)
    assert calls == [] and second.num_steps == 1 and optimizer.num_steps == 0
    optimizer.step(module)
    assert calls == ["wrapper", "hook"]


@pytest.mark.parametrize("way", WAYS)
def test_a_copy_writes_to_no_log_and_shares_no_points(
    methods: dict[str, Any], problem: Make, way: str
) -> None:
    optimizer = methods["mezo"](problem().parameters())
    optimizer.recorder = optimizer.share = lambda *_: None
    copied = WAYS[way](optimizer)
    assert copied.recorder is None and copied.share is None
    assert optimizer.recorder is not None and optimizer.share is not None


def test_a_cycled_momentum_is_the_one_that_is_used(methods: dict[str, Any], problem: Make) -> None:
    """OneCycleLR finds betas or a momentum in the defaults and moves them in the groups."""
    ends: list[list[Tensor]] = []
    for cycles in (False, True):
        module = problem()
        optimizer = methods["zo-sgd-mmt"](module.parameters())
        scheduler = lr_scheduler.OneCycleLR(optimizer, 3e-3, 9, cycle_momentum=cycles)
        for _ in range(3):
            optimizer.step(module)
            scheduler.step()
        ends.append([p.detach().clone() for p in module.parameters()])
    assert not all(map(torch.equal, *ends))
    adam = methods["mezo-adam"](problem().parameters())
    lr_scheduler.OneCycleLR(adam, 1e-2, 9)
    assert adam.param_groups[0]["betas"][0] == 0.95
