"""Every engine shows the closure the same parameters, and the exact ones leave no trace."""

import hashlib
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from bszo.errors import NonFiniteLoss, OptimError
from bszo.perturb import Copies, Gaussian, Injected, LossOracle, Streaming, Walk
from bszo.perturb.engines.buffers import Reused

POINTS = [{}, {3: 1e-2}, {3: -1e-2}, {4: 0.5, 9: -0.25}, {}, {9: 1e-4}]
Case = Callable[[torch.dtype], tuple[nn.Module, Callable[[], Tensor]]]


def parts(module: nn.Module) -> list[Tensor]:
    return list(module.parameters())


def oracle(kind: str, module: nn.Module, closure: Callable[[], object]) -> LossOracle:
    params = parts(module)
    engine = {
        "streaming": lambda: Streaming(params, module),
        "copy": lambda: Copies(params, list(range(len(params)))),
    }.get(kind, lambda: Walk(params, kind))()  # type: ignore[arg-type]
    return LossOracle(params, closure, Gaussian(params), engine)


def fingerprint(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for p in module.parameters():
        digest.update(
            p.detach().contiguous().view(torch.uint8).numpy().tobytes()
            if p.ndim
            else p.detach().reshape(1).view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()


def by_hand(module: nn.Module, closure: Callable[[], Tensor], terms: dict[int, float]) -> float:
    """theta written, scored, and written back; the directions asked of the family tensor by
    tensor."""
    params = parts(module)
    family, kept = Gaussian(params), [p.detach().clone() for p in params]
    with torch.no_grad():
        for i, p in enumerate(params):
            for seed, c in terms.items():
                p += c * family.direction(seed, i).double()
        value = float(closure())
        for p, theta in zip(params, kept, strict=True):
            p.copy_(theta)
    return value


@pytest.mark.parametrize("kind", ["streaming", "copy", "in-place", "two-leg", "three-leg"])
def test_all_engines_give_the_same_losses(case: Case, size: str, kind: str) -> None:
    module, closure = case(torch.float64)
    expected = [by_hand(module, closure, terms) for terms in POINTS]
    tested = oracle(kind, module, closure)
    assert [tested.loss(terms) for terms in POINTS] == pytest.approx(expected, rel=1e-12, abs=1e-13)
    assert expected[0] != expected[1] != expected[3]


@pytest.mark.parametrize("kind", ["streaming", "copy"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_exact_engines_leave_no_trace(case: Case, kind: str, dtype: torch.dtype) -> None:
    module, closure = case(dtype)
    before, addresses = fingerprint(module), [p.data_ptr() for p in parts(module)]
    tested = oracle(kind, module, closure)
    losses = [tested.loss(terms) for terms in POINTS]
    assert fingerprint(module) == before
    assert [p.data_ptr() for p in parts(module)] == addresses
    assert losses[0] == losses[4] and losses[0] != losses[3]


def test_sixteen_bit_streaming_equals_sixteen_bit_copies(case: Case, size: str) -> None:
    """The same single rounding, row by row for a lookup and at once for a copy: equal to the
    bit."""
    module, closure = case(torch.bfloat16)
    fast = torch.backends.mha.get_fastpath_enabled()
    # torch's own attention takes another kernel where it sees hooks
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        streaming = [oracle("streaming", module, closure).loss(terms) for terms in POINTS]
        assert streaming == [oracle("copy", module, closure).loss(terms) for terms in POINTS]
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def test_a_missed_use_costs_one_more_pass_once(case: Case, second_pass: int) -> None:
    module, closure = case(torch.float64)
    tested = oracle("streaming", module, closure)
    for count, terms in enumerate(POINTS, start=1):
        tested.loss(terms)
        assert tested.num_forwards == count + (second_pass if count > 1 else 0)
    family, engine = tested.directions, tested.engine
    later = LossOracle(parts(module), closure, family, engine)
    later.loss({1: 1.0})
    assert later.num_forwards == 1, (
        "an optimizer keeps its engine, so the pass is not repeated in later steps"
    )


def test_directions_that_read_the_parameters_are_no_missed_use() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))

    def rule(params: Sequence[Tensor], seed: int) -> list[Tensor]:
        return [torch.ones_like(p) * p.detach().sign() for p in params]

    params, x = parts(module), torch.ones(1, 3)
    tested = LossOracle(
        params, lambda: module(x).sum(), Injected(params, rule), Streaming(params, module)
    )
    tested.loss({1: 0.1})
    assert tested.num_forwards == 1 and not tested.engine.copies.indices  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["streaming", "copy", "in-place", "two-leg", "three-leg"])
def test_an_exception_in_the_middle_of_a_module_leaves_theta_and_no_hook(
    make: Callable[..., tuple[nn.Module, Callable[[], Tensor]]], kind: str
) -> None:
    module, closure = make("nested", torch.float64)
    tested, before = oracle(kind, module, closure), fingerprint(module)
    expected = tested.loss({3: 0.1})
    close = [p.detach().clone() for p in parts(module)]

    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    handle = module.body[2][1].register_forward_hook(interrupt)  # type: ignore[index, union-attr]
    with pytest.raises(KeyboardInterrupt):
        tested.loss({3: 0.1, 4: 2.0})
    handle.remove()
    for p, theta in zip(parts(module), close, strict=True):
        torch.testing.assert_close(
            p.detach(), theta, rtol=0, atol=0 if kind in ("streaming", "copy") else 0.3
        )
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in module.modules())
    if kind in ("streaming", "copy"):
        assert fingerprint(module) == before
    assert tested.loss({3: 0.1}) == pytest.approx(expected, rel=1e-12)
    tested.home()
    for p, theta in zip(parts(module), parts(make("nested", torch.float64)[0]), strict=True):
        torch.testing.assert_close(p.detach(), theta.detach(), rtol=0, atol=1e-14)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), torch.tensor(float("-inf"))])
@pytest.mark.parametrize("kind", ["streaming", "copy", "in-place", "two-leg", "three-leg"])
def test_a_loss_that_is_not_finite_brings_theta_home(kind: str, value: float) -> None:
    module = nn.Linear(3, 2).double()
    losses = iter([1.0, value])
    x = torch.ones(3, dtype=torch.float64)
    tested = oracle(kind, module, lambda: (module(x), next(losses))[1])
    before = [p.detach().clone() for p in parts(module)]
    tested.step = 12
    tested.loss({3: 0.1})
    with pytest.raises(NonFiniteLoss, match="step 12") as caught:
        tested.loss({3: -0.1})
    assert caught.value.step == 12
    for p, theta in zip(parts(module), before, strict=True):
        torch.testing.assert_close(
            p.detach(), theta, rtol=0, atol=0 if kind in ("streaming", "copy") else 1e-14
        )


@pytest.mark.parametrize("result", [torch.zeros(2), torch.zeros(0), None, "loss", [0.1]])
def test_a_closure_without_one_number_is_an_error(result: object) -> None:
    module = nn.Linear(3, 2)
    before = fingerprint(module)
    with pytest.raises(OptimError, match=r"closure\(\) returned"):
        oracle("three-leg", module, lambda: result).loss({1: 1.0})
    assert torch.allclose(parts(module)[0], parts(module)[0]) and len(before) == 64


@pytest.mark.parametrize(
    "result",
    [
        0.5,
        1,
        torch.tensor(0.5),
        torch.tensor([[0.5]]),
        torch.tensor(0.5, dtype=torch.bfloat16),
        torch.ones((), requires_grad=True),
    ],
)
def test_any_one_number_is_a_loss(result: object) -> None:
    assert oracle("copy", nn.Linear(2, 2), lambda: result).loss() in (0.5, 1.0)


def test_the_closure_runs_without_gradients() -> None:
    module = nn.Linear(2, 2)
    assert oracle("copy", module, lambda: float(torch.is_grad_enabled())).loss({1: 1.0}) == 0.0


@pytest.mark.parametrize("kind", ["streaming", "copy", "in-place", "two-leg", "three-leg"])
def test_an_autocast_around_a_step_is_one_in_the_closure(kind: str) -> None:
    """Autocast keeps a weight's cast as long as it lasts, by the parameter's identity: another
    point has others."""
    torch.manual_seed(0)
    module, x = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 1)), torch.ones(3, 5)

    def inside() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return module(x).sum()

    reference = oracle(kind, module, inside)
    expected = [reference.loss({3: c}) for c in (0.1, 0.5)]
    reference.home()
    with torch.autocast("cpu", torch.bfloat16):
        module(x)
        tested = oracle(kind, module, lambda: module(x).sum())
        assert [tested.loss({3: c}) for c in (0.1, 0.5)] == pytest.approx(expected, rel=1e-2)
        tested.home()
        torch.testing.assert_close(module(x).sum().float(), inside().float(), rtol=1e-2, atol=1e-2)
    assert expected[0] != pytest.approx(expected[1], rel=0.03)


def test_a_closure_may_run_in_inference_mode_or_not() -> None:
    module, x = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), torch.ones(1, 3)
    tested = oracle("streaming", module, torch.inference_mode()(lambda: module(x).sum()))
    inside = tested.loss({1: 0.1})
    tested.closure = lambda: module(x).sum()
    assert tested.loss({1: 0.1}) == inside


def test_a_buffer_is_used_again_on_its_own_device() -> None:
    reused = Reused()
    reused.give_back(torch.empty(4))
    assert reused.take(torch.empty(2, 2, device="meta")).device.type == "meta"
    assert reused.take(torch.empty(2, 2)).shape == (2, 2)
