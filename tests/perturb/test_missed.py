"""What streaming's hooks do not see is found out, whenever it comes: its losses are those of
copies."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from bszo.perturb import Copies, Gaussian, LossOracle, Streaming
from tests.perturb.networks import IDS, WIDTH

Closure = Callable[[], Tensor]
POINTS = [{}, {3: 1e-2}, {3: -1e-2}, {4: 0.5, 9: -0.25}, {9: 1e-4}]
X = torch.linspace(-1, 1, 4 * WIDTH, dtype=torch.float64).view(4, WIDTH)


def net() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH)).double()


def compiled() -> tuple[nn.Module, Closure]:
    """Its graph is traced with hooks once, under the watch, and runs without them afterwards."""
    module = net()
    runs = torch.compile(module, backend="eager")
    return module, lambda: runs(X).square().mean()


def compiled_before() -> tuple[nn.Module, Closure]:
    module, closure = compiled()
    closure()
    return module, closure


def compiled_itself() -> tuple[nn.Module, Closure]:
    module: Any = torch.compile(net(), backend="eager")
    return module, lambda: module(X).square().mean()


def compiled_in_place() -> tuple[nn.Module, Closure]:
    module = net()
    module.compile(backend="eager")
    return module, lambda: module(X).square().mean()


def traced() -> tuple[nn.Module, Closure]:
    module = net()
    runs: Any = torch.jit.trace(module, X)
    return module, lambda: runs(X).square().mean()


def another_closure() -> tuple[nn.Module, Closure]:
    """The second call uses, from outside, what the first call's modules owned."""
    module, calls = net(), iter(range(99))

    def closure() -> Tensor:
        if next(calls) < 2:
            return module(X).square().mean()
        return F.linear(X, module[0].weight).square().mean()

    return module, closure


def in_a_thread() -> tuple[nn.Module, Closure]:
    module, pool = net(), ThreadPoolExecutor(1)
    return module, lambda: pool.submit(lambda: module(X).square().mean()).result()


def functional_in_a_thread() -> tuple[nn.Module, Closure]:
    module, pool = net(), ThreadPoolExecutor(1)
    return (
        module,
        lambda: pool.submit(lambda: F.linear(X, module[0].weight).square().mean()).result(),
    )


def read_by_a_hook() -> tuple[nn.Module, Closure]:
    """A user's hook reads the weight of an embedding just before it runs."""
    torch.manual_seed(0)
    module: Any = nn.Embedding(10, WIDTH).double()
    means = [torch.zeros(())]
    module.register_forward_pre_hook(lambda owner, args: means.append(owner.weight.mean()))
    return module, lambda: (module(IDS).square() * (1 + means[-1])).mean()


CASES = {
    case.__name__: case
    for case in (
        compiled,
        compiled_before,
        compiled_itself,
        compiled_in_place,
        traced,
        another_closure,
        in_a_thread,
        functional_in_a_thread,
        read_by_a_hook,
    )
}


@pytest.mark.filterwarnings(
    "ignore:Using `torch.compile:UserWarning", "ignore:Dynamo detected:UserWarning"
)
@pytest.mark.parametrize("case", CASES)
def test_losses_are_those_of_copies(case: str) -> None:
    def losses(streaming: bool) -> list[float]:
        module, closure = CASES[case]()
        params: list[Tensor] = list(module.parameters())
        engine = (
            Streaming(params, module) if streaming else Copies(params, list(range(len(params))))
        )
        oracle = LossOracle(params, closure, Gaussian(params), engine)
        return [oracle.loss(terms) for terms in POINTS]

    expected = losses(streaming=False)
    assert losses(streaming=True) == pytest.approx(expected, rel=1e-12)
    assert len(set(expected)) == len(POINTS)


def test_what_the_hooks_see_is_not_copied() -> None:
    module = net()
    engine = Streaming(list(module.parameters()), module)
    oracle = LossOracle(engine.params, lambda: module(X).sum(), Gaussian(engine.params), engine)
    oracle.measure(POINTS)
    assert engine.copies.indices == [] and oracle.num_forwards == len(POINTS)


class Counter(TorchFunctionMode):
    """A user's own mode."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.cosh
        return func(*args, **(kwargs or {}))


def test_a_mode_of_the_closures_own_stays() -> None:
    module, seen = net(), []

    def closure() -> Tensor:
        with Counter() as counter:
            loss = torch.cosh(module(X)).mean() + torch.cosh(X).mean()
        seen.append(counter.count)
        return loss

    engine = Streaming(list(module.parameters()), module)
    LossOracle(engine.params, closure, Gaussian(engine.params), engine).measure(POINTS)
    assert seen == [2] * len(POINTS)
