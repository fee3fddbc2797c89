"""16-bit products in fp32, as on a processor without instructions for them; seen on every one."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bszo import ForwardGrad, MeZO, half
from bszo.models import load_model
from bszo.tasks import Example
from tests.squares import square

PRODUCTS: dict[str, Callable[..., Tensor]] = {
    "linear": lambda x, w, b: F.linear(x, w, b),
    "linear without bias": lambda x, w, b: F.linear(x, w),
    "product of matrices": lambda x, w, b: x @ w.T,
    "Conv1D": lambda x, w, b: torch.addmm(b, x.flatten(0, 1), w.T),
    "attention": lambda x, w, b: F.scaled_dot_product_attention(x, x, x, is_causal=True),
    "attention with a mask": lambda x, w, b: F.scaled_dot_product_attention(
        x, x, x, attn_mask=b[:16].expand(16, 16)
    ),
    "attention written out": lambda x, w, b: (x @ x.mT).softmax(-1) @ x,
}


@pytest.fixture(autouse=True)
def without_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(half, "is_native", lambda dtype: dtype not in half.HALF)
    monkeypatch.setattr(half, "PIECE", 600)  # so that a matrix is taken in pieces, the last shorter


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the products that were made in fp32."""
    made: list[str] = []

    def spied(name: str, product: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *args, **named: made.append(name) or product(*args, **named)

    spies = {func: spied(product.__name__, product) for func, product in half.PRODUCTS.items()}
    monkeypatch.setattr(half, "PRODUCTS", spies)
    return made


class Own(Tensor):
    """A subclass, whose products are its own."""


def parts(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, w, b = (torch.randn(*n, generator=generator) for n in ((3, 16, 24), (70, 24), (70,)))
    return x.to(dtype), (w / 5).to(dtype), b.to(dtype)


@pytest.mark.parametrize(("name", "dtype"), square(PRODUCTS, half.HALF))
@torch.no_grad()
def test_a_product_is_rounded_once(name: str, dtype: torch.dtype, wide: list[str]):
    x, w, b = parts(dtype)
    with half.fast_products(nn.Linear(2, 2, dtype=dtype)):
        found = PRODUCTS[name](x, w, b)
    exact = PRODUCTS[name](x.double(), w.double(), b.double())
    assert wide and found.dtype == dtype and found.shape == exact.shape
    written_out = name == "attention written out"  # three operations, each of which rounds
    slack = torch.finfo(dtype).eps * (8 if written_out else 0.51)
    torch.testing.assert_close(found.double(), exact, rtol=slack, atol=slack * 1e-1)


def test_nothing_changes_where_it_would_not_serve(wide: list[str]):
    x, w, b = parts(torch.bfloat16)
    with half.fast_products(nn.Linear(2, 2)):  # an fp32 model
        F.linear(x, w, b)
    with half.fast_products(nn.Linear(2, 2, dtype=torch.bfloat16)):
        F.linear(x, w, b.requires_grad_()).sum().backward()  # the gradient would keep a wide W
        with torch.no_grad():
            F.linear(x[0, : half.FEWEST - 1], w, b)
            F.linear(x.float(), w.float())
            with pytest.raises(RuntimeError, match="dtype"):
                F.linear(x, w.float())
            torch.matmul(x, w.T, out=torch.empty(3, 16, 70, dtype=x.dtype))
            for a, v in ((x.as_subclass(Own), w), (x, w.as_subclass(Own))):
                assert isinstance(F.linear(a, v), Own)
            torch.jit.trace(lambda one: F.linear(one, w), x, check_trace=False)
            torch.func.vmap(lambda one: F.linear(x, one))(w[None])
            torch.func.jvp(lambda v: F.linear(v, w), (x,), (x,))
            with torch.autocast("cpu", torch.float16):
                assert F.linear(x, w).dtype == torch.float16
    assert wide == [] and b.grad is not None


@torch.no_grad()
def test_the_fewest_rows_that_pay_are_widened(wide: list[str]):
    x, w, b = parts(torch.bfloat16)
    with half.fast_products(nn.Linear(2, 2, dtype=torch.bfloat16)):
        F.linear(x[0, : half.FEWEST], w, b)
    assert wide == ["_linear"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_forward_mode_has_its_own_products(dtype: Any):
    model = load_model("asset:tiny-opt", kind="causal", dtype=dtype)
    batch = model.collate(model.encode([Example("0", "It was", (" great", " bad"), 0)] * 8))
    optimizer = ForwardGrad(model.module.parameters(), lr=1e-3, module=model.module)
    assert torch.isfinite(torch.tensor(optimizer.step(lambda: model.loss(batch))))


@pytest.mark.parametrize("family", ["opt", "mistral", "roberta"])
def test_a_step_of_a_model_takes_them(family: str, wide: list[str]):
    kind = "masked" if family == "roberta" else "causal"
    model = load_model(f"asset:tiny-{family}", kind=kind, dtype="bfloat16")
    prompt = "It was <mask>." if kind == "masked" else "It was"
    examples = [Example(str(i), f"{prompt} {i}", (" great", " bad"), i % 2) for i in range(8)]
    batch = model.collate(model.encode(examples))
    MeZO(model.module.parameters(), lr=1e-3, eps=1e-2, module=model.module).step(
        lambda: model.loss(batch)
    )
    assert wide.count("_linear") >= 2 * 6 and "_attention" in wide


@torch.no_grad()
def test_unusual_shapes_are_what_torch_makes_of_them():
    x, w, b = parts(torch.bfloat16)
    cases = [(x, w[0], None), (x[..., :0], w[:, :0], b), (x, w[:0], b[:0])]
    for a, v, c in cases:
        expected = F.linear(a, v, c)
        with half.fast_products(nn.Linear(2, 2, dtype=torch.bfloat16)):
            assert torch.equal(F.linear(a, v, c), expected)
    with half.fast_products(nn.Linear(2, 2, dtype=torch.bfloat16)):
        found = torch.addmm(b[:1], x[0], w.T)
        scaled = torch.addmm(b, x[0], w.T, beta=0.5, alpha=2)
    assert torch.equal(found, torch.addmm(b[:1], x[0], w.T))
    assert torch.equal(scaled, torch.addmm(b, x[0], w.T, beta=0.5, alpha=2))
