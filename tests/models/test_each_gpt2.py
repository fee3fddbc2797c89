"""A direction for each example in GPT-2, whose layers answer x W + b: each loss and each step from
dense formulas."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

from bszo import EachBSZO, EachMeZO
from bszo.errors import OptimError
from bszo.perturb import mix64, noise

ALL: Any = {"vectors": "perturb", "embeddings": "perturb"}
IDS = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 0, 1]])
LABELS = torch.tensor([0, 2, 1])


def gpt2() -> GPT2LMHeadModel:
    """Two blocks with random biases and norms, in float64; its output layer is its embedding."""
    config = GPT2Config(vocab_size=11, n_positions=6, n_embd=8, n_layer=2, n_head=2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = GPT2LMHeadModel(config).double().eval()
        for p in module.parameters():
            p.data += 0.2 * torch.randn_like(p)
    return module


def losses(module: nn.Module) -> Tensor:
    return F.cross_entropy(module(IDS).logits[:, -1], LABELS, reduction="none")


def direction(p: Tensor, i: int, e: int, rank: int, subspace: str) -> Tensor:
    """z_e of step 0 under seed 1: A_e B_e^T / sqrt(r) in W's own shape, B_e shared under LOZO."""
    seed = mix64(mix64(1, 0, 0), e)
    if p.ndim == 1:
        return noise.values(p.shape, i, seed).double()
    right = mix64(1, 0, -2) if subspace == "lozo" else mix64(seed, 1)
    a, b = (
        noise.values(torch.Size((side, rank)), i, named).double()
        for side, named in zip(p.shape, (mix64(seed, 0), right), strict=True)
    )
    return a @ b.T / rank**0.5


@pytest.mark.parametrize(
    ("rank", "subspace", "placed"),
    [(1, "none", True), (3, "none", False), (2, "lozo", True), (2, "lozo", False)],
)
def test_losses_and_step_are_the_formula_s(rank: int, subspace: Any, placed: bool) -> None:
    """l_e(theta +- eps z_e) from plain passes, theta's bits in between, and theta - lr (1/B) sum_e
    g_e z_e; where each position says whose it is, and where the first axis does, which positions'
    own table has not."""
    module, exact, eps, lr = gpt2(), gpt2(), 0.05, 0.1
    assert module.lm_head.weight is module.transformer.wte.weight
    params = list(module.parameters())
    parts: Any = ALL if placed else {"vectors": "perturb"}
    start = [p.detach().clone() for p in params]
    untouched = []

    def closure() -> Tensor:
        found = losses(module)
        untouched.append(all(map(torch.equal, params, start)))
        return found

    if placed:
        closure.examples = (torch.arange(3)[:, None].expand(IDS.shape),)  # type: ignore[attr-defined]
    optimizer = EachMeZO(
        params, lr=lr, eps=eps, rank=rank, seed=1, module=module, subspace=subspace, **parts
    )
    optimizer.step(closure)
    assert optimizer.last is not None and untouched == [True, True]
    reach = optimizer.last.reach
    assert reach == (*([float(placed)] * 2), *([1.0] * (len(params) - 2)))
    step = [torch.zeros_like(p) for p in start]
    for e, g in enumerate(optimizer.last.observations):
        z = [r * direction(start[i], i, e, rank, subspace) for i, r in enumerate(reach)]
        for c, found in ((eps, optimizer.last.losses[:3]), (-eps, optimizer.last.losses[3:])):
            with torch.no_grad():
                for p, theta, z_p in zip(exact.parameters(), start, z, strict=True):
                    p.copy_(theta + c * z_p)
                assert found[e] == pytest.approx(losses(exact)[e].item(), rel=1e-6)
        assert abs(g) * 2 * eps > 1e-2  # it is seen
        for total, z_p in zip(step, z, strict=True):
            total += g * z_p / 3
    for p, theta, mean in zip(params, start, step, strict=True):
        torch.testing.assert_close(p.detach(), theta - lr * mean, rtol=1e-6, atol=1e-6)


def test_the_matrices_move_alone_and_so_do_biases_beside_frozen_ones() -> None:
    biases: Any = {"vectors": "perturb"}
    for parts, moved in (({}, "weight"), (biases, "bias")):
        module = gpt2()
        if moved == "bias":
            for name, p in module.named_parameters():
                p.requires_grad_(name.endswith("bias"))
        before = {name: p.detach().clone() for name, p in module.named_parameters()}
        params = [p for p in module.parameters() if p.requires_grad]
        optimizer = EachBSZO(params, lr=0.1, prior_var=1.0, module=module, **parts)
        optimizer.step(partial(losses, module))
        layers = [name for name, m in module.named_modules() if isinstance(m, Conv1D)]
        assert len(layers) == 2 * 4
        expected = {f"{layer}.{moved}" for layer in layers}
        expected |= {n for n in before if moved == "bias" and ".ln_" in n and n.endswith("bias")}
        assert expected == {
            n for n, p in module.named_parameters() if not torch.equal(p, before[n])
        }


def other(answer: Any) -> nn.Module:
    """One whose answer is the same for some x, W and b at most."""
    return type("Scaled", (Conv1D,), {"forward": answer})(4, 4).double()


def wrapped() -> nn.Module:
    layer = Conv1D(4, 4).double()
    layer.forward = lambda x: 2 * Conv1D.forward(layer, x)
    return layer


@pytest.mark.parametrize(
    ("layer", "more"),
    [
        (other(lambda self, x: x @ self.weight + 2 * self.bias), ()),
        (other(lambda self, x: x @ self.weight.T + self.bias), ()),
        (other(lambda self, x: x @ self.weight.clamp(-0.2, 0.2) + self.bias), ()),
        (other(lambda self, x: (x @ self.weight + self.bias)[:1]), ()),
        (other(lambda self, x, scale=1.0: scale * Conv1D.forward(self, x)), (2.0,)),
        (wrapped(), ()),
    ],
)
def test_a_layer_of_that_kind_with_another_answer_is_refused(layer: nn.Module, more: Any) -> None:
    net = nn.Sequential(layer)
    before = [p.detach().clone() for p in net.parameters()]
    optimizer = EachMeZO(net.parameters(), lr=0.1, module=net)
    x = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0)).double()
    with pytest.raises(OptimError, match=r"0: \w+ computes its .* need not be x W \+ b; freezing"):
        optimizer.step(lambda: layer(x, *more).square().flatten(1).sum(1))
    assert all(map(torch.equal, net.parameters(), before))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rounding_is_no_other_answer(dtype: torch.dtype) -> None:
    """In 16 bits, and under an autocast; the answers are the formula's up to these."""
    net = nn.Sequential(Conv1D(5, 4)).to(dtype)
    params = list(net.parameters())
    x = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    found: list[Tensor] = []

    def closure() -> Tensor:
        found.append(net(x))
        return found[-1].double().square().sum((1, 2))

    for cast in {False, dtype == torch.float32}:
        found.clear()
        start = [p.detach().clone() for p in params]
        optimizer = EachMeZO(params, lr=0.0, eps=0.5, seed=1, module=net, vectors="perturb")
        with torch.autocast("cpu", torch.bfloat16, enabled=cast):
            optimizer.step(closure)
        assert all(map(torch.equal, params, start))
        for e in range(3):
            w, b = (
                p.detach().double() + 0.5 * direction(p, i, e, 1, "none")
                for i, p in enumerate(params)
            )
            expected = x[e].double() @ w + b
            close = 1e-5 if found[0].dtype == torch.float32 else 2**-5
            torch.testing.assert_close(found[0][e].double(), expected, rtol=close, atol=close)
