"""Closures that differentiate or map inside themselves, and tensors that lie at no one address."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bszo.errors import OptimError
from bszo.perturb import Copies, Gaussian, LossOracle, Streaming
from tests.squares import square

Built = tuple[nn.Module, Callable[[], Tensor]]
POINTS = [{}, {3: 1e-2}, {3: -1e-2}, {4: 0.5, 9: -0.25}]


def net() -> Any:
    layers = [nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1)]
    return nn.Sequential(*layers).double()


def inputs(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def gradient_of_the_output() -> Built:
    """A physics-informed loss: u' = -u."""
    module, xs = net(), inputs(5, 4)

    def closure() -> Tensor:
        with torch.enable_grad():
            x = xs.clone().requires_grad_()
            u = module(x)
            (du,) = torch.autograd.grad(u.sum(), x)
        return (du + u).square().mean()

    return module, closure


def gradient_inside_the_module() -> Built:
    """Forces: the module differentiates its own energy in its forward."""

    class Forces(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.energy, self.weight = net(), nn.Parameter(torch.ones(4, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            with torch.enable_grad():
                x = x.clone().requires_grad_()
                return torch.autograd.grad(self.energy(x * self.weight).sum(), x)[0]

    module, xs = Forces(), inputs(5, 4)
    return module, lambda: module(xs).square().mean()


def graph_that_leaves_the_module() -> Built:
    """The forward turns gradients on for its own weight alone, and the closure differentiates."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            with torch.enable_grad():
                return (x * self.weight).sin()

    module, xs = Scaled(), inputs(5, 4)

    def closure() -> Tensor:
        x = xs.clone().requires_grad_()
        u = module(x)
        with torch.enable_grad():
            return torch.autograd.grad(u.sum(), x)[0].square().mean()

    return module, closure


def adversarial_step() -> Built:
    module, xs = net(), inputs(5, 4)

    def loss(x: Tensor) -> Tensor:
        return module(x).square().mean()

    return module, lambda: loss(xs + 0.1 * torch.func.grad(loss)(xs).sign())


def jvp() -> Built:
    module, xs = net(), inputs(5, 4)
    return module, lambda: torch.func.jvp(module, (xs,), (xs.cos(),))[1].square().mean()


def vjp() -> Built:
    module, xs = net(), inputs(5, 4)

    def closure() -> Tensor:
        u, pull, *_ = torch.func.vjp(module, xs)
        return pull(u)[0].square().mean()

    return module, closure


def jacobian() -> Built:
    module, xs = net(), inputs(2, 4)
    return module, lambda: torch.func.jacrev(module)(xs).square().mean()


def vmap() -> Built:
    module, xs = net(), inputs(5, 4)
    return module, lambda: torch.func.vmap(module)(xs).square().mean()


def vmap_of_a_lookup() -> Built:
    module = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(8, 3)).double()
    ids = torch.arange(10).view(5, 2) % 9
    return module, lambda: torch.func.vmap(lambda i: module(i[None])[0])(ids).square().mean()


def dual_numbers() -> Built:
    module, xs = net(), inputs(5, 4)

    def closure() -> Tensor:
        with torch.autograd.forward_ad.dual_level():
            u = module(torch.autograd.forward_ad.make_dual(xs, xs.cos()))
            tangent: Any = torch.autograd.forward_ad.unpack_dual(u).tangent
            return tangent.square().mean()

    return module, closure


def sparse_output() -> Built:
    class Sparse(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(x).to_sparse()

    module, xs = Sparse(4, 3).double(), inputs(5, 4)
    return module, lambda: module(xs).to_dense().square().mean()


def jagged(layout: torch.layout = torch.jagged) -> Tensor:
    return torch.nested.nested_tensor([torch.arange(3), torch.arange(5)], layout=layout)


def jagged_ids() -> Built:
    module = nn.Embedding(9, 4).double()
    return module, lambda: module(jagged()).values().square().mean()


def jagged_ids_by_name() -> Built:
    module = nn.Embedding(9, 4, padding_idx=1).double()
    return module, lambda: module(input=jagged()).values().square().mean()


def jagged_rows() -> Built:
    module = nn.Linear(4, 3).double()
    rows = torch.nested.nested_tensor(list(inputs(2, 3, 4)), layout=torch.jagged)
    return module, lambda: module(rows).values().square().mean()


CASES = {
    case.__name__: case
    for case in (
        gradient_of_the_output,
        gradient_inside_the_module,
        graph_that_leaves_the_module,
        adversarial_step,
        jvp,
        vjp,
        jacobian,
        vmap,
        vmap_of_a_lookup,
        dual_numbers,
        sparse_output,
        jagged_ids,
        jagged_ids_by_name,
        jagged_rows,
    )
}
COPIED = {  # these need copies; the others stream
    "gradient_of_the_output",
    "gradient_inside_the_module",
    "graph_that_leaves_the_module",
    "adversarial_step",
    "jvp",
    "vjp",
    "jacobian",
    "vmap",
    "vmap_of_a_lookup",
}


@pytest.mark.parametrize("name", CASES)
def test_streaming_measures_what_copies_measure(name: str) -> None:
    torch.manual_seed(1)
    module, closure = CASES[name]()
    params: list[Tensor] = list(module.parameters())
    before = [p.detach().clone() for p in params]
    streaming = Streaming(params, module)
    tested = LossOracle(params, closure, Gaussian(params), streaming)
    losses = [tested.loss(terms) for terms in POINTS]
    copies = Copies(params, list(range(len(params))))
    expected = LossOracle(params, closure, Gaussian(params), copies)
    assert losses == pytest.approx([expected.loss(terms) for terms in POINTS], rel=1e-12)
    assert len(set(losses)) == len(POINTS)
    assert bool(streaming.copies.indices) == (name in COPIED)
    assert tested.num_forwards == len(POINTS) + (name in COPIED)  # one pass was taken again
    assert all(torch.equal(p, q) for p, q in zip(params, before, strict=True))


def test_a_pass_that_turns_to_gradients_later_is_found_then() -> None:
    module, closure = gradient_of_the_output()
    xs, calls = inputs(5, 4), iter(range(99))
    params: list[Tensor] = list(module.parameters())
    streaming = Streaming(params, module)
    mixed = lambda: module(xs).square().mean() if next(calls) < 3 else closure()  # noqa: E731
    tested = LossOracle(params, mixed, Gaussian(params), streaming)
    for _ in range(3):
        tested.loss({3: 0.1})
    assert not streaming.copies.indices
    copies = LossOracle(params, closure, Gaussian(params), Copies(params, list(range(6))))
    assert tested.loss({3: 0.1}) == pytest.approx(copies.loss({3: 0.1}), rel=1e-12)


@pytest.mark.parametrize("engine", ["streaming", "copy"])
def test_a_closure_that_calls_backward_is_told_so(engine: str) -> None:
    module, xs = net(), inputs(5, 4)
    params: list[Tensor] = list(module.parameters())

    def closure() -> Tensor:
        loss = module(xs).square().mean()
        loss.backward()
        return loss

    used = Streaming(params, module) if engine == "streaming" else Copies(params, [])
    with pytest.raises(OptimError, match=r"closure\(\) differentiates.*without backward"):
        LossOracle(params, closure, Gaussian(params), used).loss({3: 0.1})


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.linear(x))


@pytest.mark.parametrize(
    ("how", "fullgraph"), square(["module", "function", "in place", "a part"], [False, True])
)
@pytest.mark.filterwarnings("ignore:Using `torch.compile:UserWarning")
def test_a_compiled_closure_is_traced_without_hooks(how: str, fullgraph: bool) -> None:
    """At most twice, once of them under the first pass's watch; and never again."""
    torch._dynamo.reset()
    graphs: list[Any] = []

    def backend(graph: Any, example: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    module, x = nn.Sequential(Block(), Block()), torch.ones(2, 4)
    compiled = {"backend": backend, "fullgraph": fullgraph}
    fast: Any = module
    if how == "module":
        fast = torch.compile(module, **compiled)
    elif how == "function":
        fast = torch.compile(lambda v: module[1](module[0](v)), **compiled)
    elif how == "in place":
        module[0].compile(**compiled)
        module[1].compile(**compiled)
    else:
        part = torch.compile(module[0], **compiled)
        fast = lambda v: module[1](part(v))  # noqa: E731
    params: list[Tensor] = list(module.parameters())
    streaming = Streaming(params, module)
    tested = LossOracle(params, lambda: fast(x).square().mean(), Gaussian(params), streaming)
    losses = [tested.loss({seed: 0.1}) for seed in range(12)]
    assert 1 <= len(graphs) <= (4 if how == "in place" else 2)
    whole = nn.Sequential(*[Block() for _ in range(2)])
    whole.load_state_dict(module.state_dict())
    same: list[Tensor] = list(whole.parameters())
    copies = Copies(same, list(range(len(same))))
    plain = LossOracle(same, lambda: whole(x).square().mean(), Gaussian(same), copies)
    assert losses == pytest.approx([plain.loss({seed: 0.1}) for seed in range(12)], rel=1e-6)
