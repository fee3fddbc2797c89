"""Directions shown by their factors: losses are those of parameters that are written by hand, theta
is only read."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bszo import LOZO, MeZO, SubZero
from bszo.errors import OptimError
from bszo.perturb import ByFactors, Directions, LossOracle, LowRank, OuterProduct, Subspace
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
        assert set(engine.linear.values()) <= set(engine.rest.copies.indices)
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
