"""Directions shown by their factors: losses are those of parameters that are written by hand, theta
is only read."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bszo import LOZO, MeZO, SubZero
from bszo.errors import OptimError
from bszo.perturb import (
    ByFactors,
    Directions,
    LossOracle,
    LowRank,
    OuterProduct,
    Streaming,
    Subspace,
)
from tests.perturb.test_engines import POINTS, Case, fingerprint, parts

FAMILIES: dict[str, Callable[[list[Tensor]], Directions]] = {
    "outer product": lambda params: OuterProduct(params, 2),
    "low rank": lambda params: LowRank(params, 2, basis_seed=5),
    "subspace": lambda params: Subspace(params, 2, 5, scaled=True, square=False),
}


def by_hand(params: list[Tensor], family: Directions, terms: Any, closure: Any) -> float:
    """The loss at theta + sum_i c_i z_i, each z_i asked of the family whole."""
    kept = [p.detach().clone() for p in params]
    with torch.no_grad():
        for i, p in enumerate(params):
            for seed, c in terms.items():
                p += c * family.direction(seed, i).to(p.dtype)
        value = float(closure())
        for p, theta in zip(params, kept, strict=True):
            p.copy_(theta)
    return value


def oracle(module: nn.Module, closure: Any, family: Directions | None = None) -> LossOracle:
    params = parts(module)
    family = OuterProduct(params, 2) if family is None else family
    return LossOracle(params, closure, family, ByFactors(params, module))


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_are_those_of_parameters_written_by_hand(case: Case, family: str) -> None:
    """Of every network that has some habit: weights that are tied, used beside their module, made
    of others, called by keyword; and several directions at a point."""
    module, closure = case(torch.float64)
    tested = oracle(module, closure, FAMILIES[family](parts(module)))
    before = fingerprint(module)
    expected = [by_hand(parts(module), tested.directions, terms, closure) for terms in POINTS]
    try:
        found = [tested.loss(terms) for terms in POINTS]
    except OptimError as error:  # of a network without a linear layer that calls hooks
        assert "no linear layer" in str(error)
        engine: Any = tested.engine
        assert not engine._shown_by_layers()
    else:
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-9)  # z itself is rounded to fp32
    assert fingerprint(module) == before


@pytest.mark.parametrize(("dtype", "size"), [(torch.bfloat16, 4.0), (torch.float16, 32.0)])
def test_in_16_bits_a_small_direction_is_not_lost(dtype: torch.dtype, size: float) -> None:
    """Weights whose spacing is far above eps z: W + eps z is W, and the answer moves all the
    same."""
    net = nn.Linear(64, 8, bias=False)
    net.weight.data.fill_(size)
    net = net.to(dtype)
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    x -= x.mean(1, keepdim=True)
    family = OuterProduct(parts(net), 1)
    at = {7: 1e-3}
    assert torch.equal(family.shift(net.weight.data, 0, at), net.weight.data)
    seen: list[Tensor] = []
    tested = oracle(net, lambda: (seen.append(net(x)), 0.0)[1], family)
    tested.loss(at)
    tested.loss({})
    change = (seen[0].double() - seen[1].double()).flatten()
    expected = (x.double() @ (1e-3 * family.direction(7, 0)).double().T).flatten()
    assert torch.corrcoef(torch.stack([change, expected]))[0, 1] > 0.99


def test_an_autocast_answers_in_its_own_type() -> None:
    net, x = nn.Linear(6, 4), torch.ones(2, 6)
    seen: list[Tensor] = []
    tested = oracle(net, lambda: (seen.append(net(x)), 0.0)[1])
    with torch.autocast("cpu", torch.bfloat16):
        tested.loss({7: 0.5})
    moved = net.weight + 0.5 * tested.directions.direction(7, 0)
    bias = net.bias + 0.5 * tested.directions.direction(7, 1)
    assert seen[0].dtype == torch.bfloat16
    torch.testing.assert_close(seen[0].float(), x @ moved.T + bias, rtol=0.02, atol=0.03)


def test_a_closure_that_differentiates_sees_copies() -> None:
    """Its backward pass reads the weights after their layers have run."""
    net, x = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1)).double(), torch.randn(3, 5)

    def closure() -> float:
        with torch.enable_grad():
            inputs = x.double().requires_grad_()
            (slope,) = torch.autograd.grad(net(inputs).sum(), inputs)
        return slope.square().sum().item()

    family = OuterProduct(parts(net), 1)
    tested = oracle(net, closure, family)
    with pytest.raises(OptimError, match="no linear layer"):
        tested.loss({3: 0.1})


def test_the_steps_are_those_of_the_other_exact_engines() -> None:
    results = []
    for how in ("copy", "factored"):
        with torch.random.fork_rng():
            torch.manual_seed(1)
            net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double().eval()
            x = torch.randn(7, 6, dtype=torch.float64)
        for cls, more in ((LOZO, {"interval": 2}), (SubZero, {"rank": 2, "interval": 3})):
            options: Any = {**more, "perturbation": how}
            optimizer = cls(net.parameters(), lr=0.05, eps=1e-3, module=net, **options)
            for _ in range(5):
                optimizer.step(lambda net=net, x=x: net(x).square().mean())
        results.append([p.detach().clone() for p in net.parameters()])
    for p, q in zip(*results, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-8)


def test_what_has_no_factors_is_refused() -> None:
    net, x = nn.Linear(4, 3), torch.ones(2, 4)
    gaussian = MeZO(net.parameters(), module=net, perturbation="factored")
    masked = LOZO(net.parameters(), module=net, perturbation="factored").restrict(sparsity=0.5)
    for optimizer in (gaussian, masked):
        with pytest.raises(OptimError, match=r"perturbation='factored': no linear.*exact is valid"):
            optimizer.step(lambda: net(x).sum())
    with pytest.raises(OptimError, match=r"perturbation='factored' needs module="):
        LOZO(net.parameters(), perturbation="factored")


class Decoder(nn.Linear):
    """Reads its encoder's weight, which it owns under a name of its own."""

    def __init__(self, encoder: nn.Linear) -> None:
        super().__init__(encoder.out_features, encoder.in_features)
        self.encoders = encoder.weight

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x @ self.encoders


def autoencoder() -> nn.Module:
    encoder = nn.Linear(6, 4)
    return nn.Sequential(encoder, nn.Tanh(), Decoder(encoder), nn.Linear(6, 6))


def hooked(hook: Callable[[Any, Any], Any]) -> nn.Module:
    net = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 6))
    net[0].register_forward_pre_hook(hook)
    return net


def hooked_inside() -> nn.Module:
    """A hook that comes when the pass has begun."""
    net: Any = nn.Sequential(nn.Identity(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 6))

    def begin(module: nn.Module, args: Any) -> None:
        if not net[1]._forward_pre_hooks:
            net[1].register_forward_pre_hook(lambda m, args: (args[0] / m.weight.norm(),))

    net[0].register_forward_pre_hook(begin)
    return net


def accelerated() -> nn.Module:
    hooks = pytest.importorskip("accelerate.hooks")

    class Doubled(hooks.ModelHook):
        def pre_forward(self, module: nn.Module, x: Tensor) -> Any:
            return (2 * x,), {}

    net = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 6))
    hooks.add_hook_to_module(net[0], Doubled())
    hooks.add_hook_to_module(net[2], hooks.AlignDevicesHook(execution_device="cpu"))
    return net


class Conv1D(nn.Module):
    """Calls itself GPT-2's layer, and cuts off large answers."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.nf = nn.Parameter(torch.randn(6, 4)), 4

    def forward(self, x: Tensor) -> Tensor:
        return (100 * x @ self.weight).clamp(-50, 50)


STRANGE: dict[str, Callable[[], nn.Module]] = {
    "a subclass owns the weight under another name": autoencoder,
    "a hook reads the weight": lambda: hooked(lambda m, args: (args[0] / m.weight.norm(),)),
    "a hook that comes later reads the weight": hooked_inside,
    "accelerate changes the input": accelerated,
    "another class of the same name": lambda: nn.Sequential(Conv1D(), nn.Linear(4, 6)),
}


@pytest.mark.parametrize("what", STRANGE)
def test_layers_with_a_way_of_their_own(what: str) -> None:
    """Another engine shows them; the layers beside them are shown by factors."""
    found = {}
    x = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for how in (ByFactors, Streaming):
        with torch.random.fork_rng():
            torch.manual_seed(1)
            net = STRANGE[what]().double().eval()
        params = parts(net)
        tested = LossOracle(
            params,
            lambda net=net: net(x).square().mean().item(),
            OuterProduct(params, 1),
            how(params, net),
        )
        found[how] = [tested.loss(terms) for terms in ({3: 0.1}, {3: -0.1}, {}, {4: 0.3, 9: 0.2})]
    assert found[ByFactors] == pytest.approx(found[Streaming], rel=1e-6)


def test_another_forward_that_comes_later() -> None:
    net = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 6)).double()
    x = torch.randn(3, 6, dtype=torch.float64)
    tested = oracle(net, lambda: net(x).square().mean().item())
    tested.loss({3: 0.1})
    net[2].forward = lambda x: nn.functional.linear(x, 2 * net[2].weight)  # type: ignore[method-assign]
    expected = by_hand(parts(net), tested.directions, {3: 0.1}, tested.closure)
    assert tested.loss({3: 0.1}) == pytest.approx(expected, rel=1e-6)


def test_a_pass_with_other_weights_is_left_alone() -> None:
    """The same module called with a reference's parameters, as a frozen copy of a policy is."""
    net = nn.Linear(5, 3).double()
    reference = {name: p.detach().clone() for name, p in net.named_parameters()}
    x = torch.randn(4, 5, dtype=torch.float64)

    def closure() -> float:
        other = torch.func.functional_call(net, reference, (x,))
        return (net(x) - other).square().mean().item()

    family = OuterProduct(parts(net), 1)
    tested = oracle(net, closure, family)
    assert tested.loss({3: 0.1}) == pytest.approx(by_hand(parts(net), family, {3: 0.1}, closure))


def test_an_inner_product_beyond_fp16_s_range() -> None:
    """x B alone is, and eps A (B x) is not."""
    net = nn.Linear(1024, 8).half()
    x = (2000 + 3000 * torch.randn(4, 1024)).half()
    family = OuterProduct(parts(net), 1)
    tested = oracle(net, lambda: net(x).float().abs().mean().item(), family)
    found = tested.loss({3: 1e-3})
    b = family.factors(3, 0)[1]  # type: ignore[index]
    assert not (x @ b.mT.half()).isfinite().all()
    assert found == pytest.approx(by_hand(parts(net), family, {3: 1e-3}, tested.closure), rel=0.02)


@pytest.mark.parametrize(("inputs", "outputs"), [(5, 0), (0, 5)])
def test_a_layer_without_inputs_or_outputs(inputs: int, outputs: int) -> None:
    net, x = nn.Linear(inputs, outputs).double(), torch.ones(2, inputs, dtype=torch.float64)
    family = OuterProduct(parts(net), 1)
    tested = oracle(net, lambda: net(x).sum().item(), family)
    assert tested.loss({3: 0.1}) == by_hand(parts(net), family, {3: 0.1}, tested.closure)
