"""Own directions of vectors, embeddings and output layers: each answer and each step from dense
formulas."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bszo import EachBSZO, EachMeZO
from bszo.errors import OptimError
from bszo.perturb import PerExample, Unpadded, mix64, noise

ALL: Any = {"vectors": "perturb", "embeddings": "perturb"}
IDS = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 0], [9, 10, 0, 0]])
LABELS = torch.tensor([0, 2, 1])


class Places(nn.Embedding):
    """Chooses its rows itself, two behind the positions; row 1 is padding."""

    def forward(self, mask: Tensor) -> Tensor:
        return super().forward((mask.cumsum(1) - 1) * mask + 2 - mask.logical_not().long())


class OnePlus(nn.Module):
    """A norm that adds 1 to its weight."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n))

    def forward(self, hidden: Tensor) -> Tensor:
        x = hidden.float() if hidden.dtype != torch.float64 else hidden
        normal = x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
        return (normal * (1 + self.weight.to(x))).to(hidden)


class Net(nn.Module):
    """A model whose output layer is its embedding, with three kinds of norm, one of whose weights
    is 0, and positions in a row of their own."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(11, 6)
        self.places, self.kinds = Places(9, 6, padding_idx=1), nn.Embedding(2, 6)
        self.norm, self.rms, self.plus = nn.LayerNorm(6), nn.RMSNorm(6), OnePlus(6)
        self.mix = nn.Linear(6, 6)
        self.out = nn.Linear(6, 11)
        self.out.weight = self.words.weight
        with torch.no_grad():
            for p in self.parameters():
                p.add_(0.3 * torch.randn(p.shape))
            self.norm.weight[2] = 0.0
        self.to(dtype).eval()

    def get_input_embeddings(self) -> nn.Module:
        return self.words

    def get_output_embeddings(self) -> nn.Module:
        return self.out

    def forward(self, ids: Tensor) -> Tensor:
        row = torch.arange(ids.shape[1])[None] % 2  # one row for all examples
        h = self.words(ids) + self.places((ids > 0).long()) + self.kinds(row)
        h = h + torch.tanh(self.mix(self.norm(h)))
        return self.out(self.plus(hidden=self.rms(h)))[:, -1]


def losses(net: nn.Module, ids: Tensor = IDS) -> Tensor:
    return F.cross_entropy(net(ids).double(), LABELS, reduction="none")


def closure(net: nn.Module) -> Any:
    def run() -> Tensor:
        return losses(net)

    run.examples = (torch.arange(3)[:, None].expand(IDS.shape),)  # type: ignore[attr-defined]
    return run


def directions(net: Net, rank: int, e: int) -> list[Tensor]:
    """z_e of step 0 under seed 1, from each parameter's own rule."""
    params, seed = list(net.parameters()), mix64(mix64(1, 0, 0), e)
    found = []
    for i, p in enumerate(params):
        if p.ndim == 1:
            z = noise.values(p.shape, i, seed).double()
        else:
            a, b = (
                noise.values(torch.Size((side, rank)), i, mix64(seed, which)).double()
                for which, side in enumerate(p.shape)
            )
            z = a @ b.T / rank**0.5
        if p is net.places.weight:
            z[1] = 0
        found.append(z)
    return found


@pytest.mark.parametrize(
    ("dtype", "rank"),
    [(torch.float64, 1), (torch.float64, 3), (torch.bfloat16, 3), (torch.float16, 1)],
)
def test_losses_and_step_are_the_formula_s(dtype: torch.dtype, rank: int) -> None:
    """l_e(theta +- eps z_e) from plain passes in float64, and theta - lr ((1/B) sum_e g_e z_e + w
    theta)."""
    net, eps, lr, w = Net(dtype), 0.05, 0.1, 0.01
    exact = Net()
    exact.load_state_dict({k: v.double() for k, v in net.state_dict().items()})
    start = [p.detach().clone() for p in exact.parameters()]
    optimizer = EachMeZO(
        net.parameters(), lr=lr, weight_decay=w, eps=eps, rank=rank, seed=1, module=net, **ALL
    )
    optimizer.step(closure(net))
    assert optimizer.last is not None and all(optimizer.last.reach)
    assert max(map(abs, optimizer.last.observations)) * 2 * eps > 0.2  # it is seen
    step = [torch.zeros_like(p) for p in start]
    for e, g in enumerate(optimizer.last.observations):
        z = directions(exact, rank, e)
        for side, found in ((eps, optimizer.last.losses[:3]), (-eps, optimizer.last.losses[3:])):
            with torch.no_grad():
                for p, theta, z_p in zip(exact.parameters(), start, z, strict=True):
                    p.copy_(theta + side * z_p)
                slack = {torch.float64: 1e-5, torch.float16: 0.02, torch.bfloat16: 0.1}[dtype]
                assert found[e] == pytest.approx(losses(exact)[e].item(), abs=slack)
        for total, z_p in zip(step, z, strict=True):
            total += g * z_p / 3
    for p, theta, mean in zip(net.parameters(), start, step, strict=True):
        expected = theta - lr * (mean + w * theta)
        close = 1e-6 if dtype == torch.float64 else 2**-8
        torch.testing.assert_close(p.detach().double(), expected, rtol=close, atol=1e-6)


def test_each_switch_moves_its_own_parameters() -> None:
    """And the ones of linear layers, as without."""
    tables = {"words.weight", "places.weight", "kinds.weight"}
    cases: list[tuple[Any, set[str]]] = [
        ({}, {"mix.weight"}),
        ({"embeddings": "perturb"}, {"mix.weight", *tables}),
        (ALL, {name for name, _ in Net().named_parameters()}),
    ]
    for parts, moved in cases:
        net = Net()
        before = {name: p.detach().clone() for name, p in net.named_parameters()}
        optimizer = EachBSZO(net.parameters(), lr=0.1, eps=1e-2, prior_var=1.0, module=net, **parts)
        optimizer.step(closure(net))
        assert moved == {n for n, p in net.named_parameters() if not torch.equal(p, before[n])}


def test_an_autocast_and_a_default_device_change_nothing_else() -> None:
    """The closure's autocast gives the answers their types; what the engine makes lies where the
    parameters do."""
    net = nn.Sequential(nn.Embedding(11, 8), nn.LayerNorm(8), nn.Linear(8, 5))
    found = []
    for cast, device in ((False, "cpu"), (False, "meta"), (True, "cpu")):
        optimizer = EachMeZO(net.parameters(), lr=0.0, eps=0.1, module=net, **ALL)
        with torch.device(device), torch.autocast("cpu", torch.bfloat16, enabled=cast):
            optimizer.step(lambda: net(IDS).float().square().sum((1, 2)))
        assert optimizer.last is not None
        found.append(optimizer.last.losses)
    assert found[0] == found[1] != found[2]
    assert found[2] == pytest.approx(found[0], rel=0.02)
    assert min(abs(a - b) / a for a, b in zip(found[0][:3], found[0][3:], strict=True)) > 0.1


def test_where_biases_alone_train_each_is_seen() -> None:
    net, eps = Net(), 0.05
    for name, p in net.named_parameters():
        p.requires_grad_(name.endswith("bias"))
    params = [p for p in net.parameters() if p.requires_grad]
    optimizer = EachMeZO(params, lr=0.0, eps=eps, seed=1, vectors="perturb", module=net)
    optimizer.step(closure(net))
    assert optimizer.last is not None and len(params) == 3
    for e, found in enumerate(optimizer.last.losses[:3]):
        moved = Net()
        with torch.no_grad():
            biases = [p for name, p in moved.named_parameters() if name.endswith("bias")]
            for i, p in enumerate(biases):
                p += eps * noise.values(p.shape, i, mix64(mix64(1, 0, 0), e)).double()
        assert found == pytest.approx(losses(moved)[e].item(), rel=1e-6)


def test_rows_of_a_table_are_drawn_alone_and_a_padding_row_is_none() -> None:
    """A table of words has many rows, of which a pass reads few."""
    params = [torch.zeros(40, 3)]
    seeds, rows, of = [5, 7], torch.tensor([[3, 39, 1], [0, 1, 3]]), torch.tensor([[0], [1]])
    family = Unpadded(PerExample(params, 2, {0}), {0: 1})
    found, stacks = family.left_rows(seeds, 0, rows, of.expand(2, 3)), family.stacks(seeds, 0)
    assert found is not None and stacks is not None
    torch.testing.assert_close(found, stacks[0][of, rows], rtol=0, atol=0)
    assert not found[0, 2].any() and found.count_nonzero() == 2 * (6 - 2)
    z = torch.stack([family.direction(seed, 0) for seed in seeds])
    torch.testing.assert_close(stacks[0] @ stacks[1].mT, z)


class Doubled(nn.Embedding):
    def forward(self, ids: Tensor) -> Tensor:
        return 2 * super().forward(ids)


class Squared(OnePlus):
    def forward(self, hidden: Tensor) -> Tensor:
        return hidden * self.weight * self.weight.abs()


class Shifted(OnePlus):
    def forward(self, hidden: Tensor) -> Tensor:
        return hidden * self.weight + 1


class Small(nn.Module):
    """(B, 5) tokens -> losses, through one strange part."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.words, self.part, self.out = nn.Embedding(11, 5), part, nn.Linear(5, 1)

    def forward(self) -> Tensor:
        h = self.words(torch.arange(15).view(3, 5) % 11)
        given = torch.arange(5)[:, None] - torch.arange(5)
        if isinstance(self.part, nn.Embedding):
            h = h + self.part(given[:3] + 5 if self.part.num_embeddings == 11 else given + 5)
        elif isinstance(self.part, nn.EmbeddingBag):
            h = h + self.part(torch.arange(3)[:, None])[:, None]
        else:
            h = self.part(h)
        return self.out(h).square().sum((1, 2))


@pytest.mark.parametrize(
    ("part", "says"),
    [
        (Doubled(11, 5), "part: Doubled computes its answer in a way.*need not be rows of W"),
        (nn.Embedding(11, 5, max_norm=1.0), "part: Embedding computes its answer in a way"),
        (Squared(5), r"part: Squared .* need not be w \* x' \+ b; freezing its weight is valid"),
        (Shifted(5), r"part: Shifted .* need not be w \* x' \+ b"),
        (nn.PReLU(5), "part: PReLU computes its answer in a way of its own"),
        (nn.EmbeddingBag(3, 5), "embeddings='perturb': part.weight belongs to a EmbeddingBag"),
        (nn.BatchNorm1d(5), "vectors='perturb': part.weight belongs to a BatchNorm1d, of which"),
        (nn.Conv1d(5, 5, 1), "vectors='perturb': part.bias belongs to a Conv1d, of which"),
    ],
)
def test_what_answers_otherwise_is_refused_by_name(part: nn.Module, says: str) -> None:
    net = Small(part)
    before = [p.detach().clone() for p in net.parameters()]
    with pytest.raises(OptimError, match=says):
        EachMeZO(net.parameters(), lr=0.1, module=net, **ALL).step(net)
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True))


def test_a_hook_that_may_read_a_weight_before_its_layer_runs_is_refused() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))

    def reads(module: Any, args: Any) -> Any:
        return (args[0] * module.weight.sum(),)

    net[1].register_forward_pre_hook(reads)
    with pytest.raises(OptimError, match="1: a forward pre-hook may read its weight, which has no"):
        EachMeZO(net.parameters(), module=net).step(lambda: net(torch.ones(3, 4)).sum(1))


def test_distances_between_positions_are_no_example_s() -> None:
    """As many examples as positions, so that shapes do not tell."""
    table = nn.Embedding(9, 1)
    distances = torch.arange(5)[:, None] - torch.arange(5) + 4

    def run() -> Tensor:
        return table(distances)[..., 0].sum(1)

    with pytest.raises(OptimError, match=r"\(5, 5\) goes on along diagonals, as distances"):
        EachMeZO(table.parameters(), lr=0.1, module=table, embeddings="perturb").step(run)
