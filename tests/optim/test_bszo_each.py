"""BSZO with directions for each example: each rule from its formula, and what it shares with
BSZO."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bszo import BSZO, EachBSZO
from bszo.core import condition, prior
from bszo.errors import NonFiniteLoss, OptimError
from bszo.perturb import OuterProduct, PerExample, mix64

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(1)).double()
V = torch.randn(3, 2, generator=torch.Generator().manual_seed(2)).double()
SETTINGS: dict[str, Any] = {"lr": 0.1, "eps": 1e-3, "prior_var": 2.0, "noise_var": 0.5}


def network() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(4, 2, bias=False).double()


def losses(net: nn.Module, x: Tensor = X, v: Tensor = V) -> Tensor:
    return (torch.tanh(net(x)) * v).sum(1)


def dense(weight: Tensor, seed: int, k: int, e: int, i: int) -> Tensor:
    """z_ei of step 0, from the definition of its seed."""
    family = PerExample([weight], 1, {0})
    return family.direction(mix64(mix64(seed, 0, i), e), 0).double()


@pytest.mark.parametrize("update", ["posterior", "mean", "z-score"])
def test_a_step_is_the_formula_s(update: Any) -> None:
    """In float64, with a belief for each example by the paper's own Kalman update."""
    net, k, seed = network(), 3, 7
    before = net.weight.detach().clone()
    optimizer = EachBSZO(
        net.parameters(), k=k, seed=seed, update=update, noise_ema=0.3, module=net, **SETTINGS
    )
    optimizer.step(lambda: losses(net))
    z = [[dense(before, seed, k, e, i) for i in range(k)] for e in range(3)]
    y = torch.zeros(3, k, dtype=torch.float64)
    for e in range(3):
        for i in range(k):
            both = [(torch.tanh(X[e] @ (before + c * z[e][i]).T) * V[e]).sum() for c in (1e-3, 0.0)]
            y[e, i] = (both[0] - both[1]) / 1e-3
    if update == "posterior":
        noise, weights = 0.5, torch.zeros_like(y)
        beliefs = [prior(k, 2.0) for _ in range(3)]
        for i in range(k):
            noise = 0.7 * noise + 0.3 * float((y[:, i] ** 2).mean())
            axis = torch.eye(k, dtype=torch.float64)[i]
            beliefs = [condition(b, axis, float(y[e, i]), noise) for e, b in enumerate(beliefs)]
        weights = torch.stack([b.mean for b in beliefs])
        assert optimizer.noise_var == pytest.approx(noise, rel=1e-6)
        assert optimizer.last is not None and optimizer.last.gain == pytest.approx(
            float((weights * y).sum() / (y * y).sum()), rel=1e-6
        )
    else:
        weights = y / k / (1.0 if update == "mean" else float(y.std(correction=0)))
        assert optimizer.noise_var == 0.5
    step = sum(weights[e, i] * z[e][i] for e in range(3) for i in range(k)) / 3
    torch.testing.assert_close(net.weight.data, before - 0.1 * step, rtol=1e-5, atol=1e-7)
    assert optimizer.num_forwards == k + 1


def test_with_one_example_it_is_bszo_along_the_same_directions() -> None:
    """m = k; over ten steps, through the noise variance that lives on."""
    nets, found = [network(), network()], []
    own = EachBSZO(nets[0].parameters(), k=2, seed=3, module=nets[0], **SETTINGS)

    def same(params: Any, seed: int) -> list[Tensor]:
        family = OuterProduct(list(params), 1)
        return [family.direction(mix64(seed, 0), i) for i in range(len(params))]

    shared = BSZO(nets[1].parameters(), k=2, m=2, seed=3, directions=same, **SETTINGS)
    for _ in range(10):
        own.step(lambda: losses(nets[0], X[:1], V[:1]))
        shared.step(lambda: losses(nets[1], X[:1], V[:1])[0])
        found.append((own.noise_var, shared.noise_var))
    assert all(a == pytest.approx(b, rel=1e-6) for a, b in found)
    torch.testing.assert_close(nets[0].weight, nets[1].weight, rtol=1e-6, atol=1e-8)


def test_slopes_of_zero_move_nothing() -> None:
    net = network()
    before = net.weight.detach().clone()
    for update in ("posterior", "mean", "z-score"):
        rule: Any = update
        optimizer = EachBSZO(net.parameters(), update=rule, module=net, **SETTINGS)
        optimizer.step(lambda: 0 * net(X).sum(1))
        assert torch.equal(net.weight, before)


def test_the_z_score_of_one_difference_is_refused() -> None:
    """It would be 0 at every step, and the run would look like one that learns nothing."""
    net = network()
    before = net.weight.detach().clone()
    optimizer = EachBSZO(net.parameters(), k=1, update="z-score", module=net, **SETTINGS)
    with pytest.raises(OptimError, match=r"^update='z-score': a batch of one example and k=1"):
        optimizer.step(lambda: losses(net, X[:1], V[:1]))
    assert torch.equal(net.weight, before) and optimizer.num_steps == 0
    optimizer.step(lambda: losses(net))  # three examples have a deviation
    assert not torch.equal(net.weight, before)


def test_it_goes_on_bit_for_bit_and_refuses_another_rule() -> None:
    net, other = network(), network()
    optimizer, again = (
        EachBSZO(n.parameters(), seed=3, module=n, **SETTINGS) for n in (net, other)
    )
    for _ in range(3):
        optimizer.step(lambda: losses(net))
    other.load_state_dict(net.state_dict())
    again.load_state_dict(optimizer.state_dict())
    assert again.noise_var == optimizer.noise_var != 0.5
    optimizer.step(lambda: losses(net))
    again.step(lambda: losses(other))
    assert torch.equal(net.weight, other.weight)
    plain = EachBSZO(other.parameters(), update="mean", module=other, **SETTINGS)
    with pytest.raises(Exception, match=r"update='posterior', here it is 'mean'"):
        plain.load_state_dict(optimizer.state_dict())


def test_an_update_draws_no_factor_a_second_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from bszo.perturb.directions import per_example

    drawn, draw = [], per_example.noise.values_of_keys

    def counted(shape: torch.Size, keys: Tensor, **more: Any) -> Tensor:
        drawn.extend(map(tuple, keys.tolist()))
        return draw(shape, keys, **more)

    monkeypatch.setattr(per_example.noise, "values_of_keys", counted)
    net = network()
    EachBSZO(net.parameters(), k=2, module=net, **SETTINGS).step(lambda: losses(net))
    assert len(drawn) == len(set(drawn)) == 2 * 2 * 3  # two factors, k directions, examples


@pytest.mark.parametrize("stacked", [False, True])
def test_a_failure_says_whether_it_was_at_theta(stacked: bool) -> None:
    """The first pass is at theta, and only what follows it is perturbed."""
    net = network()
    optimizer = EachBSZO(net.parameters(), k=1, stacked=stacked, module=net, **SETTINGS)

    class Closure:
        def __init__(self, scales: list[float], copies: int = 1) -> None:
            self.scales, self.copies = scales, copies

        def __call__(self) -> Tensor:
            scale = self.scales if self.copies > 1 else [self.scales.pop(0)]
            rows = losses(net, X.repeat(self.copies, 1), V.repeat(self.copies, 1))
            return rows * torch.tensor(scale).double().repeat_interleave(3)

        def repeated(self, count: int) -> "Closure":
            return Closure(self.scales, count)

    with pytest.raises(NonFiniteLoss) as at_theta:
        optimizer.step(Closure([float("nan"), 1.0]))
    assert not at_theta.value.perturbed and "perturbed" not in str(at_theta.value)
    optimizer.skip()
    with pytest.raises(NonFiniteLoss) as beside:
        optimizer.step(Closure([1.0, float("inf")]))
    assert beside.value.perturbed
    assert beside.value.at_theta == pytest.approx(float(losses(net).mean()))
