"""What every optimizer promises, first order included where the promise makes sense."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bszo import ForwardGrad
from bszo.errors import NonFiniteLoss, OptimError
from tests.optim.conftest import METHODS, SETTINGS, ZEROTH_ORDER
from tests.squares import square

Make = Callable[..., nn.Module]


def bits(module: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def same(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def run(method: Any, network: nn.Module, steps: int, **more: Any) -> tuple[Any, list[float]]:
    optimizer = method(network.parameters(), **more)
    return optimizer, [optimizer.step(network) for _ in range(steps)]


@pytest.mark.parametrize(
    ("method_or_setting", "dtype"),
    [
        *((name, dtype) for name in METHODS for dtype in (torch.float32, torch.bfloat16)),
        *(pytest.param(name, torch.float16, marks=pytest.mark.exhaustive) for name in METHODS),
        *((name, torch.float32) for name, made in SETTINGS.items() if not made.noisy),
    ],
    indirect=["method_or_setting"],
)
def test_descends_and_stays_finite(method_or_setting: Any, dtype: torch.dtype) -> None:
    """In bfloat16 (spacing 0.008 near 1) a perturbation must be long to be seen; lr noise keeps it
    from the bottom."""
    method, module = method_or_setting, method_or_setting.problem(dtype)
    eps = {"eps": 0.1} if dtype == torch.bfloat16 and method.zeroth_order else {}
    optimizer, losses = run(method, module, 10, module=module, **eps)
    while float(module().mean()) >= 0.75 * losses[0]:
        assert len(losses) < 150, (losses[0], losses[-1])
        losses += [optimizer.step(module) for _ in range(5)]
    assert all(p.isfinite().all() and p.dtype == dtype for p in module.parameters())
    assert isinstance(losses[0], float) and optimizer.last.loss == losses[-1]


def passes_of(method: Any, optimizer: Any) -> int:
    """Forward passes of the optimizer's next step."""
    if not method.drawn:
        return method.forwards
    drawn = optimizer.next_forwards()
    assert 1 <= drawn <= method.forwards
    return drawn


def test_forwards_and_steps_are_counted_as_documented(method_or_setting: Any) -> None:
    method, calls, passes = method_or_setting, [], 0
    module = method.problem()
    optimizer = method(module.parameters())
    for step in range(1, 5):
        passes += passes_of(method, optimizer)
        optimizer.step(lambda: calls.append(1) or module())
        assert optimizer.num_forwards == len(calls) == passes
        assert optimizer.num_backwards == method.backwards * step
        first = 3 if isinstance(optimizer, ForwardGrad) else 1  # what a forward pass counts as
        assert optimizer.num_passes == first * passes + 2 * method.backwards * step
        assert optimizer.num_steps == step
    optimizer = method(module.parameters(), module=module)
    expected = passes_of(method, optimizer)
    optimizer.step(lambda: calls.append(1) or module())
    assert optimizer.num_forwards == len(calls) - passes <= expected + 1


# what a method makes itself, and what the engine makes for it: the two take turns
@pytest.mark.parametrize(
    ("zeroth_order", "streaming"), square(ZEROTH_ORDER, [True, False]), indirect=["zeroth_order"]
)
def test_a_default_device_makes_no_difference(
    zeroth_order: Any, problem: Make, streaming: bool
) -> None:
    def after(device: str) -> list[Tensor]:
        module = problem()

        def closure() -> Tensor:
            with torch.device("cpu"):
                return module()

        with torch.device(device):
            optimizer = zeroth_order(
                module.parameters(), **({"module": module} if streaming else {})
            )
            for _ in range(3):
                optimizer.step(closure)
        return bits(module)

    assert same(after("meta"), after("cpu"))


def test_same_seed_same_bits_other_seed_other_bits(zeroth_order: Any, problem: Make) -> None:
    results = []
    for seed in (3, 3, 4):
        module = problem()
        losses = run(zeroth_order, module, 6, seed=seed)[1]
        results.append((bits(module), losses))
    assert same(results[0][0], results[1][0]) and results[0][1] == results[1][1]
    assert not same(results[0][0], results[2][0])


def test_thread_count_does_not_matter(method: Any, problem: Make) -> None:
    one, many = problem(), problem()
    run(method, one, 4)
    try:
        torch.set_num_threads(3)
        run(method, many, 4)
    finally:
        torch.set_num_threads(1)
    assert same(bits(one), bits(many))


def test_global_generators_are_neither_read_nor_moved(method: Any, problem: Make) -> None:
    results = []
    for global_seed in (0, 1):
        module = problem()
        torch.manual_seed(global_seed)
        random.seed(global_seed)
        np.random.seed(global_seed)
        states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # type: ignore[index]
        run(method, module, 3, module=module)
        assert torch.equal(torch.get_rng_state(), states[0])
        assert random.getstate() == states[1]
        assert (np.random.get_state()[1] == states[2]).all()  # type: ignore[index]
        results.append(bits(module))
    assert same(*results)


def test_no_gradient_is_left(method: Any, problem: Make) -> None:
    module = problem()
    run(method, module, 2, module=module)
    assert all(
        p.grad is None and p.requires_grad and p.grad_fn is None for p in module.parameters()
    )


def test_frozen_parameters_do_not_move(method: Any, problem: Make) -> None:
    module = problem()
    module.matrix.requires_grad_(False)  # type: ignore[union-attr]
    before, seen = bits(module), []

    def closure() -> Tensor:
        seen.append(module.matrix.detach().clone())  # type: ignore[operator, union-attr]
        return module()

    optimizer = method(module.parameters())
    for _ in range(3):
        optimizer.step(closure)
    after = bits(module)
    assert torch.equal(before[0], after[0]) and all(torch.equal(m, before[0]) for m in seen)
    assert not same(before[1:], after[1:])


def test_groups_have_their_own_lr(method: Any, problem: Make) -> None:
    module = problem()
    before = bits(module)
    layer = list(module.layer.parameters())  # type: ignore[union-attr]
    optimizer = method([{"params": [module.matrix, module.scalar], "lr": 0.0}, {"params": layer}])
    for _ in range(3 * method.sweep):
        optimizer.step(module)
    after = bits(module)
    assert same(before[:2], after[:2])
    assert not same(before[2:3], after[2:3]) and not same(before[3:], after[3:])


def test_lr_schedulers_work(method: Any, problem: Make) -> None:
    """A rate of zero from the third step on: nothing moves any more."""
    module = problem()
    optimizer = method(module.parameters())
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda epoch: 1.0 if epoch < 2 else 0.0
    )
    trail = []
    for _ in range(4):
        optimizer.step(module)
        scheduler.step()
        trail.append(bits(module))
    assert not same(trail[0], trail[1])
    assert same(trail[1], trail[2]) and same(trail[2], trail[3])


def test_weight_decay_shrinks_by_lr_times_decay(zeroth_order: Any, problem: Make) -> None:
    module = problem(torch.float64)
    before, lr = bits(module), zeroth_order.kwargs["lr"]
    run_flat = zeroth_order(module.parameters(), weight_decay=0.25)
    run_flat.step(lambda: 1.0)  # a flat loss: the estimate is zero
    for p, theta in zip(module.parameters(), before, strict=True):
        torch.testing.assert_close(p.detach(), (1 - lr * 0.25) * theta, rtol=1e-14, atol=0)


def test_decay_and_lr_of_a_group_meet(zeroth_order: Any, problem: Make) -> None:
    """Biases without decay, as the methods ask: a group's decay is its own."""
    module = problem(torch.float64)
    before = bits(module)
    groups = [
        {"params": [module.matrix], "weight_decay": 0.5, "lr": 0.1},
        {"params": [module.scalar]},
    ]
    zeroth_order(groups).step(lambda: 1.0)
    assert torch.allclose(module.matrix, 0.95 * before[0], rtol=1e-14, atol=0)  # type: ignore[arg-type]
    assert torch.equal(module.scalar, before[1])  # type: ignore[arg-type]


@pytest.mark.parametrize("fatal", [0, 1, -1])
def test_a_nan_loss_leaves_parameters_and_state(method_or_setting: Any, fatal: int) -> None:
    """NaN at the first, second or last evaluation of the third step; then the step is taken again,
    as if never."""
    method = method_or_setting
    module, untouched = method.problem(), method.problem()
    optimizer, twin = method(module.parameters()), method(untouched.parameters())
    for _ in range(2):
        optimizer.step(module)
        twin.step(untouched)
    before, last, count = bits(module), optimizer.last, [0]
    passes = passes_of(method, optimizer)
    fatal = range(passes - method.candidates)[min(fatal, passes - 1)]

    def closure() -> Tensor:
        count[0] += 1
        return module() * (float("nan") if count[0] == fatal + 1 else 1.0)

    with pytest.raises(NonFiniteLoss, match="step 2") as caught:
        optimizer.step(closure)
    assert caught.value.step == 2
    assert same(bits(module), before) and optimizer.num_steps == 2 and optimizer.last is last
    assert optimizer.step(module) == twin.step(untouched)
    assert same(bits(module), bits(untouched))


def test_the_report_is_complete(method: Any, problem: Make) -> None:
    module = problem(torch.float64)
    assert method(module.parameters()).last is None
    optimizer, value = method(module.parameters()), float(module())
    loss = optimizer.step(module)
    report = optimizer.last
    assert report.loss == loss == pytest.approx(value, rel=1e-3)
    assert len(report.observations) == method.observations
    assert all(isinstance(y, float) and y != 0 for y in report.observations)
    if report.mean is not None:
        k = method.kwargs.get("k", 2)
        assert (
            report.mean.shape == (k,)
            and report.cov.shape == (k, k)
            and report.noise_var == optimizer.noise_var
        )
        assert 0 < report.gain < 1
        assert torch.linalg.eigvalsh(report.cov).min() > 0


def test_step_needs_a_closure_that_returns_a_number(method: Any, problem: Make) -> None:
    module = problem()
    optimizer, before = method(module.parameters()), bits(module)
    for closure in (None, lambda: None, lambda: torch.zeros(3, requires_grad=True)):
        with pytest.raises(OptimError, match="closure"):
            optimizer.step(closure)
    assert same(bits(module), before) and optimizer.num_steps == 0


def test_a_closure_that_calls_backward_is_refused_in_one_line(method: Any, problem: Make) -> None:
    module = problem()
    optimizer, before = method(module.parameters(), module=module), bits(module)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = module().exp()
        loss.backward()
        return loss

    with pytest.raises(OptimError, match=r"backward\(\)") as caught:
        optimizer.step(closure)
    assert "\n" not in str(caught.value) and same(bits(module), before)
    assert optimizer.num_steps == 0
    module.zero_grad()
    optimizer.step(module)
    assert optimizer.num_steps == 1
