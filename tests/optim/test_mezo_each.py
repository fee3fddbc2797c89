"""MeZO with a direction for each example: each loss against a plain pass at its own weights."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bszo import EachMeZO, Hybrid
from bszo.errors import OptimError, TrajectoryError
from bszo.perturb import Distribution, Each, PerExample, mix64
from bszo.perturb.engines import each_pass
from bszo.trajectory.logged import LoggedLosses

SEED = 5


class Net(nn.Module):
    """Tokens (B, T) -> logits: an embedding, a layer that runs twice, a norm, an output."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(11, 6)
        self.twice, self.norm = nn.Linear(6, 6), nn.LayerNorm(6)
        self.out = nn.Linear(6, 3, bias=False)
        self.to(dtype).eval()

    def forward(self, ids: Tensor) -> Tensor:
        h = self.embedding(ids)
        for _ in range(2):
            h = h + torch.tanh(self.twice(self.norm(h)))
        return self.out(h)


IDS = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 0, 1]])
LABELS = torch.tensor([0, 2, 1])


def losses(net: nn.Module, ids: Tensor = IDS) -> Tensor:
    return F.cross_entropy(net(ids)[:, -1].float(), LABELS, reduction="none")


def seeds_of(count: int) -> list[int]:
    return [mix64(SEED, e) for e in range(count)]


def by_hand(net: Net, rank: int, c: float) -> list[float]:
    """Each example's loss from a pass of its own at W + c z_e, for every linear layer's W."""
    params = list(net.parameters())
    matrices = [i for i, p in enumerate(params) if p is net.twice.weight or p is net.out.weight]
    family = PerExample(params, rank, set(matrices))
    found = []
    for e, seed in enumerate(seeds_of(len(IDS))):
        moved = Net(params[0].dtype)
        moved.load_state_dict(net.state_dict())
        for i, p in enumerate(moved.parameters()):
            if i in matrices:
                a, b = family.factors(seed, i)  # type: ignore[misc]
                p.data += c * (a @ b).to(p.dtype)
        found.append(losses(moved)[e].item())
    return found


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("c", [1e-1, -1e-1])
def test_every_example_sees_its_own_weights(rank: int, c: float) -> None:
    net = Net()
    params: list[Tensor] = list(net.parameters())
    numbers = {i for i, p in enumerate(params) if p is net.twice.weight or p is net.out.weight}
    before = [p.clone() for p in params]
    engine, family = Each(params, net), PerExample(params, rank, numbers)
    with torch.no_grad(), engine.at_each(family, seeds_of, c):
        found = losses(net)
    assert found.tolist() == pytest.approx(by_hand(net, rank, c), rel=1e-5)
    assert not torch.allclose(found, losses(net), atol=1e-3)  # it is seen
    assert all(torch.equal(p, q) for p, q in zip(params, before, strict=True))


def test_positions_of_one_row_may_be_of_several_examples() -> None:
    """The layer as a packed batch runs it: all positions in a single row."""
    net = nn.Linear(5, 4).double()
    params: list[Tensor] = list(net.parameters())
    engine, family = Each(params, net), PerExample(params, 2, {0})
    x, examples = torch.randn(1, 7, 5).double(), torch.tensor([[0, 0, 1, 1, 1, 2, 2]])
    with torch.no_grad(), engine.at_each(family, seeds_of, 0.3, [examples]):
        found = net(x)
    for position, e in enumerate(examples[0].tolist()):
        a, b = family.factors(mix64(SEED, e), 0)  # type: ignore[misc]
        w = net.weight + 0.3 * (a @ b).double()
        expected = x[0, position] @ w.T + net.bias
        torch.testing.assert_close(found[0, position], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("apart", [False, True])
def test_places_that_share_memory_are_told_apart(apart: bool) -> None:
    """One layer sees (examples, positions), another (positions, examples)."""
    net = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 4)).double()
    params: list[Tensor] = list(net.parameters())
    engine, family = Each(params, net), PerExample(params, 2, {0, 2})
    x, e = torch.randn(3, 4, 5).double(), torch.arange(3)[:, None].expand(3, 4)
    places = (e.contiguous(), e.T.contiguous()) if apart else (e, e.T)
    with torch.no_grad(), engine.at_each(family, seeds_of, 0.3, places):
        found = net[1](net[0](x).transpose(0, 1))
    for e, seed in enumerate(seeds_of(3)):
        z_0, z_1 = (0.3 * family.direction(seed, i).double() for i in (0, 2))
        hidden = x[e] @ (params[0] + z_0).T + params[1]
        expected = hidden @ (params[2] + z_1).T + params[3]
        torch.testing.assert_close(found[:, e], expected, rtol=1e-6, atol=1e-6)


def test_an_autocast_in_the_closure_is_one_of_the_passes() -> None:
    net = nn.Linear(6, 4, bias=False)
    params: list[Tensor] = list(net.parameters())
    engine, family = Each(params, net), PerExample(params, 1, {0})
    x = torch.randn(3, 6)
    cast = torch.autocast("cpu", torch.bfloat16)
    with torch.no_grad(), cast, engine.at_each(family, seeds_of, 0.5):
        found = net(x)
    assert found.dtype == torch.bfloat16
    for e, seed in enumerate(seeds_of(3)):
        expected = x[e].double() @ (net.weight + 0.5 * family.direction(seed, 0)).double().T
        torch.testing.assert_close(found[e].double(), expected, rtol=2**-6, atol=2**-5)


def test_what_does_not_move_has_no_factors() -> None:
    """So that the rows of a lookup, which are made of factors where there are any, stay too."""
    params = [torch.zeros(2_100_000, 2), torch.zeros(3, 2)]
    family = PerExample(params, 1, {1})
    assert family.factors(1, 0) is None and family.factors(1, 1) is not None
    assert not family.shift_rows(params[0], 0, torch.arange(3), {1: 1.0}).any()


@pytest.mark.parametrize("compiled", [False, True])
def test_a_default_device_is_not_the_parameters_device(
    compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if compiled:  # as of a large model
        monkeypatch.setattr(each_pass, "COMPILE_FROM", 0)
    net, x = nn.Linear(4, 2), torch.randn(3, 4)
    found = []
    for device in ("cpu", "meta"):
        optimizer = EachMeZO(net.parameters(), lr=0.0, module=net)
        with torch.device(device):
            found.append(optimizer.step(lambda: net(x).square().sum(1)))
    assert found[0] == found[1]


@pytest.mark.parametrize("numbers", [[0, 1, 3], [0, -1, 2]])
def test_a_position_of_no_example_is_refused(numbers: list[int]) -> None:
    net = nn.Linear(4, 2)
    optimizer = EachMeZO(net.parameters(), lr=0.0, module=net)

    def closure() -> Tensor:
        return net(torch.ones(3, 4)).sum(1)

    closure.examples = (torch.arange(3), torch.tensor(numbers))  # type: ignore[attr-defined]
    with pytest.raises(OptimError, match=r"number (0 or 3|-1 or 2); 0 to 2, the batch's rows"):
        optimizer.step(closure)


def test_a_weight_that_is_made_of_others_stays() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    nn.utils.parametrizations.weight_norm(net[0])
    before = [p.detach().clone() for p in net.parameters()]
    x = torch.randn(3, 4)
    EachMeZO(net.parameters(), lr=0.1, module=net).step(lambda: net(x).square().sum(1))
    moved = [not torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True)]
    assert [n for (n, _), m in zip(net.named_parameters(), moved, strict=True) if m] == ["1.weight"]


def test_losses_that_no_perturbation_moves_are_said(caplog: pytest.LogCaptureFixture) -> None:
    """The examples' losses differ from one another all the same."""
    net = Net(torch.float32)
    for eps, count in ((1e-3, 0), (1e-30, 1)):
        optimizer = EachMeZO(net.parameters(), lr=0.0, eps=eps, module=net)
        for _ in range(2):
            optimizer.step(lambda: losses(net))
        assert caplog.text.count("each example has the same loss in all 2 passes") == count


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_log_that_two_passes_do_not_take_is_refused(count: int) -> None:
    with pytest.raises(TrajectoryError, match=f"step 7: {count} losses are left, which 2 passes"):
        LoggedLosses([1.0] * count, 7).rest(2)


@pytest.mark.parametrize(
    ("dtype", "distribution"),
    [
        (torch.float64, "gaussian"),
        (torch.bfloat16, "gaussian"),
        (torch.float64, "rademacher"),
    ],
)
def test_a_step_is_the_formula_s(dtype: torch.dtype, distribution: Distribution) -> None:
    """theta - lr ((1/B) sum_e g_e z_e + w theta), dense, in float64."""
    net = Net(dtype)
    params = list(net.parameters())
    lr, w, eps = 0.1, 0.01, 1e-2
    optimizer = EachMeZO(
        params,
        lr=lr,
        weight_decay=w,
        eps=eps,
        rank=2,
        distribution=distribution,
        seed=1,
        module=net,
    )
    start = [p.detach().double().clone() for p in params]
    optimizer.step(lambda: losses(net))
    assert optimizer.last is not None and optimizer.num_forwards == 2
    g = optimizer.last.observations
    (seed,) = [mix64(1, 0, 0)]
    matrices = {i for i, p in enumerate(params) if p is net.twice.weight or p is net.out.weight}
    family = PerExample(params, 2, matrices, distribution)
    for i, p in enumerate(params):
        z = [family.direction(mix64(seed, e), i).double() for e in range(3)]
        mean = sum(g_e * z_e for g_e, z_e in zip(g, z, strict=True)) / 3
        expected = start[i] - lr * (mean + w * start[i])
        tolerance = 1e-6 if dtype == torch.float64 else 2**-8
        torch.testing.assert_close(p.double(), expected, rtol=tolerance, atol=1e-5)


def test_signs_are_signs_wherever_they_are_drawn() -> None:
    """At rank 1 every element of z is +1 or -1; rows that are drawn alone are the stack's."""
    table, vector = torch.zeros(7, 5), torch.zeros(40)
    family = PerExample([table, vector], 1, {0, 1}, "rademacher")
    stacks, rows = family.stacks([3, 4], 0), torch.tensor([[6, 0], [2, 2]])
    assert stacks is not None
    left, right = stacks
    for e, seed in enumerate((3, 4)):
        assert torch.equal(left[e] @ right[e].mT, family.direction(seed, 0))
        assert family.direction(seed, 0).abs().eq(1).all()
        alone = family.left_rows([3, 4], 0, rows, torch.tensor(e).expand(rows.shape))
        assert alone is not None and torch.equal(alone, left[e][rows])
    drawn = family.vectors([3, 4], 1)
    assert drawn is not None and set(drawn.flatten().tolist()) == {-1.0, 1.0}
    assert torch.equal(drawn[1], family.direction(4, 1))


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_momentum_is_a_heavy_ball_of_what_takes_part(weight_decay: float) -> None:
    """M <- 0.5 M + g,  theta <- theta - lr (M + weight_decay theta), g from steps without it at the
    same theta; what takes no part keeps no M."""
    lr, net = 0.05, Net(torch.float32)
    optimizer = EachMeZO(
        net.parameters(), momentum=0.5, lr=lr, module=net, seed=3, weight_decay=weight_decay
    )
    total = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    for step in range(3):
        before = {name: p.detach().clone() for name, p in net.named_parameters()}
        bare = Net(torch.float32)
        bare.load_state_dict(net.state_dict())
        once = EachMeZO(bare.parameters(), lr=lr, module=bare, seed=3)
        once.num_steps = step
        once.step(partial(losses, bare))
        optimizer.step(lambda: losses(net))
        for name, p in net.named_parameters():
            g = (before[name] - bare.state_dict()[name]) / lr
            total[name] = 0.5 * total[name] + g
            expected = before[name] - lr * (total[name] + weight_decay * before[name])
            torch.testing.assert_close(p.detach(), expected, rtol=1e-5, atol=1e-6)
    assert {p for p, held in optimizer.state.items() if "momentum" in held} == {
        net.twice.weight,
        net.out.weight,
    }


def test_its_mean_over_directions_is_the_gradient() -> None:
    """On a linear loss E[g_e z_e] = grad l_e; the mean over e is the batch's."""
    torch.manual_seed(0)
    net = nn.Linear(3, 2, bias=False).double()
    x, v = torch.randn(4, 3).double(), torch.randn(4, 2).double()
    gradient = (v.T @ x) / 4
    total = torch.zeros(2, 3, dtype=torch.float64)
    optimizer = EachMeZO(net.parameters(), lr=1.0, eps=1e-3, module=net)
    before = net.weight.detach().clone()
    for _ in range(500):
        optimizer.step(lambda: (net(x) * v).sum(1))
        total += before - net.weight.detach()
        net.weight.data.copy_(before)
    torch.testing.assert_close(total / 500, gradient, rtol=0, atol=0.2)


def test_it_goes_on_bit_for_bit_from_its_state() -> None:
    def made() -> tuple[Net, Any]:
        net = Net(torch.float32)
        return net, EachMeZO(net.parameters(), lr=0.05, seed=3, module=net)

    net, optimizer = made()
    for _ in range(3):
        optimizer.step(lambda: losses(net))
    other, again = made()
    other.load_state_dict(net.state_dict())
    again.load_state_dict(optimizer.state_dict())
    assert [optimizer.step(lambda: losses(net)) for _ in range(3)] == [
        again.step(lambda: losses(other)) for _ in range(3)
    ]


class Beside(Net):
    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids) + F.linear(self.embedding(ids), self.out.weight)


class Scaled(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, 3 * self.weight, self.bias)


def with_own_formula() -> Net:
    net = Net()
    net.twice = Scaled(6, 6).double()
    return net


class Flat(Net):
    """Its layer sees tokens, as experts do."""

    def forward(self, ids: Tensor) -> Tensor:
        h = self.embedding(ids)
        return self.out(h + self.twice(h.flatten(0, 1)).view_as(h))


@pytest.mark.parametrize(
    ("make", "closure", "says"),
    [
        (Net, lambda net: losses(net).mean(), r"a loss an example, a tensor of shape \(3,\)"),
        (Net, lambda net: losses(net)[:2], r"shape \(2,\); a loss an example.*\(3,\)"),
        (Beside, losses, "out.weight was used beside its layer"),
        (with_own_formula, losses, r"twice: Scaled computes its answer in a way of its own"),
        (Net, lambda net: torch.ones(3), "twice.weight is to move, and its layer did not run"),
        (Net, lambda net: losses(net, IDS[:0]), r"its input \(0, 4, 6\) has no example"),
        (Flat, losses, r"shape \(3, 4, 6\), not with 12 examples first"),
        (Net, lambda net: torch.enable_grad()(losses)(net), "the closure differentiates"),
    ],
)
def test_what_it_cannot_tell_is_one_line(make: Any, closure: Any, says: str) -> None:
    net = make()
    before = [p.clone() for p in net.parameters()]
    optimizer = EachMeZO(net.parameters(), lr=0.1, module=net)
    with pytest.raises(OptimError, match=says):
        optimizer.step(lambda: closure(net))
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True))


def test_what_has_no_layer_or_no_module_is_refused() -> None:
    with pytest.raises(OptimError, match="module=None"):
        EachMeZO(Net().parameters(), lr=0.1)
    net = Net()
    with pytest.raises(OptimError, match=r"perturbation='two-leg'.*exact or streaming is valid"):
        walking: Any = {"perturbation": "two-leg"}
        EachMeZO(net.parameters(), lr=0.1, module=net, **walking)
    norm = nn.LayerNorm(3)
    with pytest.raises(OptimError, match="no trainable parameter is the weight of a linear layer"):
        EachMeZO(norm.parameters(), lr=0.1, module=norm)


def test_freezing_all_layers_is_refused_at_the_next_step() -> None:
    net = Net()
    optimizer = EachMeZO(net.parameters(), lr=0.1, module=net)
    optimizer.step(lambda: losses(net))
    for layer in (net.twice, net.out):
        layer.weight.requires_grad_(False)
    with pytest.raises(OptimError, match="no trainable parameter is the weight of a linear layer"):
        optimizer.step(lambda: losses(net))


def test_one_tensor_for_the_places_is_refused() -> None:
    net = Net()

    def closure() -> Tensor:
        return losses(net)

    closure.examples = torch.arange(3)  # type: ignore[attr-defined]
    with pytest.raises(OptimError, match=r"closure.examples is a tensor of shape \(3,\); a tuple"):
        EachMeZO(net.parameters(), lr=0.1, module=net).step(closure)


def test_a_backward_pass_beside_it_is_refused() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    with pytest.raises(OptimError, match=r"zeroth_order=EachMeZO: .* takes one number"):
        Hybrid(
            net.parameters(),
            zeroth_order=partial(EachMeZO, lr=0.1),
            algorithm=partial(torch.optim.SGD, lr=0.1),
            blocks="tensor",
            module=net,
        )


def test_masks_and_blocks_are_refused() -> None:
    net = Net()
    optimizer = EachMeZO(net.parameters(), lr=0.1, module=net)
    assert optimizer.restrict(sparsity=0.0, blocks="none") is optimizer
    for restriction in ({"sparsity": 0.5}, {"blocks": "linear"}):
        with pytest.raises(OptimError, match="sparsity=0 and blocks=none are valid"):
            optimizer.restrict(**restriction)


def test_a_layer_that_is_frozen_leaves_the_other_s_directions_as_they_are() -> None:
    """Each loss against its own weights, once a layer before it in the order stays."""
    moved = []
    for frozen in (False, True):
        net = Net()
        optimizer = EachMeZO(net.parameters(), lr=0.1, seed=2, module=net)
        optimizer.step(lambda net=net: losses(net))
        net.twice.weight.requires_grad_(not frozen)
        before = net.out.weight.detach().clone()
        optimizer.step(lambda net=net: losses(net))
        assert optimizer.last is not None
        g = optimizer.last.observations
        seeds = [mix64(mix64(2, 1, 0), e) for e in range(3)]
        number = next(i for i, p in enumerate(net.parameters()) if p is net.out.weight)
        family = PerExample(list(net.parameters()), 1, {number})
        z = [family.direction(seed, number) for seed in seeds]
        step = sum(g_e * z_e.double() for g_e, z_e in zip(g, z, strict=True)) / 3
        torch.testing.assert_close(net.out.weight, before - 0.1 * step, rtol=1e-6, atol=1e-7)
        moved.append(net.twice.weight.detach().clone())
    assert not torch.equal(*moved)


class TimeFirst(nn.Module):
    """Rows (B, T, 4) -> (B, T, 2), with time as the first axis of what its layers see."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.transpose(0, 1)).transpose(0, 1)


class Placed(nn.Module):
    """Ids (B, T) -> logits, with a table of positions that is asked for (T,)."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(11, 6).double(), nn.Embedding(4, 6).double()
        self.out = nn.Linear(6, 3, bias=False).double()

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(torch.tanh(self.words(ids) + self.places(torch.arange(ids.shape[1]))))


class Closure:
    """The losses of a batch, and which example a position is of."""

    def __init__(self, net: nn.Module, x: Tensor, said: bool = True) -> None:
        self.net, self.x, self.calls = net, x, 0
        if said:
            count, length = x.shape[:2]
            self.examples = (torch.arange(count)[:, None].expand(count, length),)

    def __call__(self) -> Tensor:
        self.calls += 1
        return self.net(self.x).float().square().flatten(1).mean(1)


@pytest.mark.parametrize("said", [True, False])
def test_an_axis_that_is_not_the_examples_is_seen_where_their_numbers_are_equal(said: bool) -> None:
    net = TimeFirst()
    x = torch.randn(4, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with pytest.raises(OptimError, match=r"example 1 moves .* of one of layer,"):
        EachMeZO(net.parameters(), module=net).step(Closure(net, x, said))


def test_positions_that_are_no_examples_are_seen_where_their_numbers_are_equal() -> None:
    net, ids = Placed(), torch.arange(16).reshape(4, 4) % 11
    with pytest.raises(OptimError, match="of one of words, places, out,"):
        EachMeZO(net.parameters(), module=net, embeddings="perturb").step(Closure(net, ids, False))


def test_as_many_examples_as_positions_are_asked_about_once() -> None:
    net = Net()
    ids = torch.arange(16).reshape(4, 4) % 11
    closure = Closure(net, ids)
    optimizer = EachMeZO(net.parameters(), module=net, embeddings="perturb")
    for passes in (4, 6, 8):
        optimizer.step(closure)
        assert optimizer.num_forwards == closure.calls == passes


def test_losses_of_different_examples_are_no_wide_step(caplog: pytest.LogCaptureFixture) -> None:
    """It is the passes of a step that are compared."""
    net = Net()
    optimizer = EachMeZO(net.parameters(), lr=1e-9, module=net)
    spread = losses(net)
    assert spread.max() > 1.5 * spread.min()
    for _ in range(20):
        optimizer.step(lambda: losses(net))
    assert "apart" not in caplog.text
