"""Own directions inside a subspace that all examples share: LOZO's and SubZero's, from dense
formulas."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bszo import EachBSZO, EachMeZO
from bszo.errors import OptimError
from bszo.perturb import PerExample, PerExampleLowRank, PerExampleSubspace, mix64, noise

IDS = torch.tensor([[1, 2, 3], [5, 6, 7], [9, 1, 0]])


class Net(nn.Module):
    """Logits over a table that is the embedding; a matrix with a side below the rank."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.mix = nn.Embedding(11, 6, padding_idx=0), nn.Linear(6, 7)
        self.down, self.out = nn.Linear(7, 2, bias=False), nn.Linear(2, 5)
        self.double().eval()

    def forward(self, ids: Tensor) -> Tensor:
        h = torch.tanh(self.mix(self.words(ids)))
        return self.out(self.down(h)).square().sum((1, 2))


def dense(net: Net, subspace: str, rank: int, draw: int, seed: int) -> list[Tensor]:
    """z of every parameter, from the definitions of its parts."""
    found, basis = [], mix64(1, draw, -2)

    def gaussian(rows: int, columns: int, i: int, named: int) -> Tensor:
        return noise.values(torch.Size((rows, columns)), i, named).double()

    for i, p in enumerate(net.parameters()):
        if p.ndim == 1:
            found.append(noise.values(p.shape, i, seed).double())
            continue
        m, n = p.shape
        if subspace == "lozo":
            v = gaussian(n, rank, i, basis)
            z = gaussian(m, rank, i, mix64(seed, 0)) @ v.T / rank**0.5
        else:
            r = min(rank, m, n)
            u, v = (
                torch.linalg.qr(gaussian(side, r, i, mix64(basis, which)))[0]
                for which, side in enumerate((m, n))
            )
            z = (m * n) ** 0.5 / r * u @ gaussian(r, r, i, seed) @ v.T
        if p is net.words.weight:
            z[0] = 0
        found.append(z)
    return found


@pytest.mark.parametrize(("subspace", "rank"), [("lozo", 1), ("lozo", 2), ("subzero", 3)])
@pytest.mark.parametrize("packed", [False, True])
def test_losses_and_steps_are_the_formula_s(subspace: Any, rank: int, packed: bool) -> None:
    """Of five steps, in float64, over a redraw after the second and the fourth."""
    net, exact, eps, lr = Net(), Net(), 1e-2, 1e-3
    optimizer = EachMeZO(
        net.parameters(),
        lr=lr,
        eps=eps,
        rank=rank,
        seed=1,
        module=net,
        vectors="perturb",
        embeddings="perturb",
        subspace=subspace,
        subspace_interval=2,
    )

    def closure() -> Tensor:
        return net(IDS)

    if packed:
        closure.examples = (torch.arange(3)[:, None].expand(IDS.shape),)  # type: ignore[attr-defined]
    for step in range(5):
        start = [p.detach().clone() for p in net.parameters()]
        optimizer.step(closure)
        assert optimizer.last is not None
        total = [torch.zeros_like(p) for p in start]
        for e, g in enumerate(optimizer.last.observations):
            z = dense(exact, subspace, rank, step // 2, mix64(mix64(1, step, 0), e))
            with torch.no_grad():
                for p, theta, z_p in zip(exact.parameters(), start, z, strict=True):
                    p.copy_(theta + eps * z_p)
                assert optimizer.last.losses[e] == pytest.approx(exact(IDS)[e].item(), rel=1e-6)
            for sum_p, z_p in zip(total, z, strict=True):
                sum_p += g * z_p / 3
        for p, theta, mean in zip(net.parameters(), start, total, strict=True):
            torch.testing.assert_close(p.detach(), theta - lr * mean, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("family", [PerExampleLowRank, PerExampleSubspace])
def test_rows_and_sums_are_those_of_the_directions(family: type) -> None:
    """And a bf16 update has one rounding."""
    seeds, c = [3, 4], [0.5, -2.0]
    theta = torch.randn(9, 5)
    found: PerExample = family([theta], 3, {0}, 11)
    rows, of = torch.tensor([[8, 0], [2, 2]]), torch.tensor([[0, 0], [1, 1]])
    stacks, left = found.stacks(seeds, 0), found.left_rows(seeds, 0, rows, of)
    assert stacks is not None and left is not None
    torch.testing.assert_close(left, stacks[0][of, rows])
    z = torch.stack([found.direction(seed, 0) for seed in seeds])
    torch.testing.assert_close(stacks[0] @ stacks[1].mT, z)
    moved = theta + sum(a * b for a, b in zip(c, z, strict=True))
    terms = dict(zip(seeds, c, strict=True))
    torch.testing.assert_close(found.shift(theta, 0, terms), moved)
    half: PerExample = family([theta.bfloat16()], 3, {0}, 11)
    expected = (theta.bfloat16().float() + moved - theta).bfloat16()
    torch.testing.assert_close(half.shift(theta.bfloat16(), 0, terms), expected, rtol=2**-7, atol=0)


def test_it_goes_on_bit_for_bit_across_a_redraw() -> None:
    def made() -> tuple[Net, EachBSZO]:
        net = Net()
        return net, EachBSZO(
            net.parameters(),
            lr=1e-3,
            prior_var=1.0,
            rank=2,
            module=net,
            subspace="lozo",
            subspace_interval=2,
        )

    (net, optimizer), (other, again) = made(), made()
    for _ in range(3):
        optimizer.step(lambda: net(IDS))
    other.load_state_dict(net.state_dict())
    again.load_state_dict(optimizer.state_dict())
    for _ in range(2):
        assert optimizer.step(lambda: net(IDS)) == again.step(lambda: other(IDS))
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), other.parameters(), strict=True))


def test_values_of_none_are_refused() -> None:
    net = Net()
    wrong: Any = {"subspace": "agzo"}
    with pytest.raises(OptimError, match="subspace='agzo': one of none, lozo, subzero is valid"):
        EachMeZO(net.parameters(), module=net, **wrong)
    with pytest.raises(OptimError, match="subspace_interval=0: at least 1 step is valid"):
        EachMeZO(net.parameters(), module=net, subspace="lozo", subspace_interval=0)
