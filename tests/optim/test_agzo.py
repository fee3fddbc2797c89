"""AGZO against a dense reference; how far its directions turn to the gradient; what it refuses."""

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bszo import AGZO
from bszo.errors import NonFiniteLoss, OptimError, TrajectoryError
from bszo.perturb import mix64, noise
from bszo.trajectory import describe


class Net(nn.Module):
    """Two linear layers, the second of which sees one input alone, and a norm."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm, self.second = nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 3)
        self.double()
        self.x = torch.randn(4, 6, dtype=torch.float64)

    def forward(self) -> Tensor:
        return self.second(torch.tanh(self.norm(self.first(self.x)).mean(0))).square().sum()

    def seen(self) -> dict[str, Tensor]:
        """H (d_in, tokens) of each layer."""
        hidden = torch.tanh(self.norm(self.first(self.x)).mean(0))
        return {"first.weight": self.x.mT, "second.weight": hidden[:, None]}


@pytest.mark.parametrize("sides", ["one", "two"])
@pytest.mark.parametrize("scale", ["gaussian", "none"])
@pytest.mark.parametrize("others", ["gaussian", "none"])
def test_agzo(sides: Any, scale: Any, others: Any) -> None:
    """The basis by singular value decomposition, P assembled whole, one loss after the other.

    R is Gaussian, so that P and -P are as likely: the sign of a column of A is that of the basis.
    """
    lr, eps, decay, rank = 1e-3, 1e-3, 0.4, 1
    model, twin = Net(), Net()
    optimizer = AGZO(
        model.parameters(),
        lr=lr,
        eps=eps,
        rank=rank,
        rounds=40,
        sides=sides,
        scale=scale,
        others=others,
        weight_decay=decay,
        seed=7,
        module=model,
    )
    for step in range(3):
        (seed,) = optimizer.direction_seeds(1)
        directions = {}
        for i, (name, p) in enumerate(twin.named_parameters()):
            if name in twin.seen():
                a = torch.linalg.svd(twin.seen()[name].detach()).U[:, :rank]
                a = a * torch.sign(_basis(model, optimizer, i, step).mT @ a)
                r = noise.values(torch.Size((p.shape[0], rank)), i, seed).double()
                factor = math.sqrt(p.shape[1] / rank) if scale == "gaussian" else 1.0
                directions[name] = factor * r @ a.mT
            else:
                whole = noise.values(p.shape, i, seed).double()
                directions[name] = whole if others == "gaussian" else torch.zeros_like(p)

        def loss(c: float, directions: dict[str, Tensor] = directions) -> float:
            moved = {n: p + c * directions[n] for n, p in twin.named_parameters()}
            return float(torch.func.functional_call(twin, moved))

        low = loss(0.0) if sides == "one" else loss(-eps)
        g = (loss(eps) - low) / (eps if sides == "one" else 2 * eps)
        with torch.no_grad():
            for name, p in twin.named_parameters():
                p -= lr * (g * directions[name] + decay * p)
        optimizer.step(model)
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-7, atol=1e-9)
    assert optimizer.num_forwards == 3 * (2 if sides == "one" else 3)


def _basis(model: Net, optimizer: Any, index: int, step: int) -> Tensor:
    """A as the optimizer will find it at this step."""
    optimizer._bind()
    inputs = optimizer._inputs
    with inputs.watched(mix64(7, step, -7)), torch.no_grad():
        model()
    found = inputs.found[index].clone()
    inputs.clear()
    return found


def test_directions_turn_to_the_gradient() -> None:
    """For a layer of one input <P, G> is N(0, d_in |G|^2): its rows are the input's, and a Gaussian
    of the same length has N(0, |G|^2)."""
    d_out, d_in, num_steps = 20, 64, 300
    layer = nn.Linear(d_in, d_out, bias=False).double()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, d_in, dtype=torch.float64, generator=generator)
    target = torch.randn(d_out, dtype=torch.float64, generator=generator)

    def closure() -> Tensor:
        return (layer(x) - target).square().sum()

    (gradient,) = torch.autograd.grad(closure(), layer.weight)
    optimizer = AGZO(layer.parameters(), lr=0.0, eps=1e-3, sides="two", module=layer)
    slopes = []
    for _ in range(num_steps):
        optimizer.step(closure)
        slopes += optimizer.last.observations  # type: ignore[union-attr]
    variance = float(torch.tensor(slopes).square().mean()) / float(gradient.square().sum())
    assert variance == pytest.approx(d_in, rel=4 * math.sqrt(2 / num_steps))


def test_what_did_not_run_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    model = Net()
    optimizer = AGZO(model.parameters(), lr=1e-3, eps=1e-3, module=model)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            optimizer.step(lambda: model.first(model.x).square().sum())
    (said,) = [r.getMessage() for r in caplog.records if r.getMessage().startswith("AGZO")]
    assert said.startswith("AGZO: of 2 linear layers 1 have not run as modules")
    assert said.endswith("their weights have Gaussian directions")


def test_without_a_linear_layer_it_is_mezo_or_refused(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.LayerNorm(4)
    x = torch.arange(4.0)
    with caplog.at_level(logging.WARNING):
        AGZO(model.parameters(), lr=1e-3, module=model).step(lambda: model(x).square().sum())
    assert "all directions are Gaussian, as MeZO's" in caplog.text
    still = AGZO(model.parameters(), lr=1e-3, others="none", module=model)
    with pytest.raises(OptimError, match=r"^others='none': .* none would move") as caught:
        still.step(lambda: model(x).square().sum())
    assert "\n" not in str(caught.value) and still.num_steps == 0


def test_a_trajectory_is_refused_in_one_line(tmp_path: Path) -> None:
    model = Net()
    optimizer = AGZO(model.parameters(), lr=1e-3, module=model)
    with pytest.raises(TrajectoryError, match=r"^AGZO: .*inputs of layers.*checkpoint=full") as e:
        describe(optimizer, base="0" * 64)
    assert "\n" not in str(e.value)


def test_the_bases_are_dropped_after_the_step() -> None:
    model = Net()
    optimizer = AGZO(model.parameters(), lr=1e-3, eps=1e-3, module=model)
    optimizer.step(model)
    assert optimizer._inputs is not None and not optimizer._inputs.found
    assert not optimizer.state and not model.first._forward_pre_hooks


def test_a_rank_and_rounds_that_are_set_between_steps_are_the_next_step_s() -> None:
    slopes = []
    for rank, rounds in ((3, 2), (1, 2), (3, 0)):
        model = Net()
        optimizer = AGZO(model.parameters(), lr=0.0, rank=rank, rounds=rounds, module=model)
        optimizer.step(model)
        optimizer.rank, optimizer.rounds = 3, 2
        optimizer.step(model)
        slopes.append(optimizer.last.observations)  # type: ignore[union-attr]
    assert slopes[0] == slopes[1] == slopes[2]


def test_an_oja_basis_is_saved_and_goes_on_bit_for_bit() -> None:
    ends = []
    for parts in ((6,), (3, 3)):
        model, state = Net().float(), {}
        model.x = model.x.float()
        for steps in parts:
            optimizer = AGZO(
                model.parameters(), lr=1e-2, eps=1e-3, rank=2, basis="oja", module=model
            )
            if state:
                optimizer.load_state_dict(state)
            for _ in range(steps):
                optimizer.step(model)
            state = optimizer.state_dict()
        bases = [s["basis"] for s in optimizer.state.values()]
        assert [tuple(a.shape) for a in bases] == [(6, 2), (5, 2)]
        ends.append([*(p.detach().clone() for p in model.parameters()), *bases])
    assert all(map(torch.equal, *ends))


def test_a_step_that_fails_leaves_the_kept_basis_alone() -> None:
    model = Net()
    optimizer = AGZO(model.parameters(), lr=1e-2, eps=1e-3, basis="oja", module=model)
    optimizer.step(model)
    before = [s["basis"].clone() for s in optimizer.state.values()]
    calls: list[int] = []
    with pytest.raises(NonFiniteLoss):
        optimizer.step(lambda: model() * (float("nan") if calls.append(1) or len(calls) > 1 else 1))
    after = [s["basis"] for s in optimizer.state.values()]
    assert all(map(torch.equal, before, after)) and len(before) == 2


def test_losses_are_compared_with_one_another() -> None:
    """Slopes and moves from the report's own losses: f_0, then one for each direction."""
    model = Net()
    optimizer = AGZO(
        model.parameters(),
        lr=1e-3,
        eps=1e-2,
        num_directions=4,
        compared_with="others",
        module=model,
    )
    optimizer.step(model)
    report = optimizer.last
    assert report is not None and optimizer.num_forwards >= 5
    f = torch.tensor(report.losses[-4:], dtype=torch.float64)
    others = (f.sum() - f) / 3
    assert report.observations == pytest.approx(((f - others) / 1e-2).tolist(), rel=1e-12)
    assert sum(report.observations) == pytest.approx(0, abs=1e-9)
    wrong: list[dict[str, Any]] = [{"num_directions": 1}, {"num_directions": 2, "sides": "two"}]
    for more in wrong:
        with pytest.raises(OptimError, match=r"^compared_with='others'"):
            AGZO(model.parameters(), compared_with="others", module=model, **more)
