"""What an example's own direction adds to an answer, by the compiled kernel and by torch."""

import pytest
import torch
from torch import Tensor

from bszo.perturb.compiled import loader
from bszo.perturb.engines.own_product import OwnProducts

EXAMPLES, POSITIONS = 3, 12
C = -0.37


def made(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(params=[False, True])
def compiled(request: pytest.FixtureRequest) -> bool:
    if request.param and loader.library() is None:
        pytest.skip("no C compiler here")
    return bool(request.param)


@pytest.mark.parametrize("where", [None, "mixed", "by place"])
@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("shape", [(1, 1), (7, 300), (256, 128), (1000, 129)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_position_meets_its_own_factors(
    dtype: torch.dtype, shape: tuple[int, int], rank: int, where: str | None, compiled: bool
) -> None:
    m, n = shape
    x, y = made(POSITIONS, n, seed=1).to(dtype), made(POSITIONS, m, seed=2).to(dtype)
    a, b = made(EXAMPLES, m, rank, seed=3).float(), made(EXAMPLES, n, rank, seed=4).float()
    of, place = torch.arange(POSITIONS) // (POSITIONS // EXAMPLES), None
    if where == "mixed":
        of = place = torch.tensor([2, 0, 1, 1, 0, 2, 2, 2, 0, 1, 0, 1])
    elif where == "by place":
        of = torch.arange(POSITIONS) % EXAMPLES
        place = torch.arange(EXAMPLES).expand(4, EXAMPLES)
    inner = torch.einsum("pn,pnr->pr", x.double(), b.double()[of])
    added = torch.einsum("pr,pmr->pm", inner, a.double()[of])
    expected = y.double() + C * added
    answer = y.clone().view(4, 3, m) if where == "by place" else y.clone()
    OwnProducts(compiled).add_(answer, x.view(*answer.shape[:-1], n), a, b, place, C)
    answer = answer.view(POSITIONS, m)
    # torch rounds the factors, x B and the sum to the answer's type, the kernel the sum alone
    inner = torch.einsum("pn,pnr->pr", x.double().abs(), b.double().abs()[of])
    size = torch.einsum("pr,pmr->pm", inner, a.double().abs()[of]).mul(abs(C)).add(y.double().abs())
    rounding = 2.0**-24 * 64 if compiled else 0.0
    close = (answer.double() - expected).abs() <= (
        rounding * size + torch.finfo(dtype).eps * (expected.abs() if compiled else 4 * size)
    )
    assert close.all()
    if compiled and dtype != torch.float32:  # another value only where the sum lies on a border
        assert int((answer != expected.to(dtype)).sum()) <= 0.01 * answer.numel() + 1


def test_what_the_kernel_does_not_know_is_torch_s() -> None:
    """An answer in fp64, and one whose rows do not stand together."""
    x, a, b = made(4, 5, seed=1), made(2, 6, 1, seed=3), made(2, 5, 1, seed=4)
    for y in (made(4, 6, seed=2), made(4, 12, seed=2).float()[:, ::2]):
        expected, answer = y.clone(), y
        OwnProducts(False).add_(expected, x.to(y), a, b, None, C)
        OwnProducts(True).add_(answer, x.to(y), a, b, None, C)
        torch.testing.assert_close(answer, expected)


def test_other_types_and_strides_are_brought_into_the_kernel_s() -> None:
    """Places in 32 bits, factors in fp64, an input that is a view."""
    x, a, b = made(5, 4, seed=1).T, made(2, 6, 1, seed=3), made(2, 5, 1, seed=4)
    y, places = made(4, 6, seed=2).float(), torch.tensor([1, 0, 0, 1])
    expected, answer = y.clone(), y.clone()
    OwnProducts(True).add_(expected, x.float().contiguous(), a.float(), b.float(), places, C)
    OwnProducts(True).add_(answer, x.float(), a, b, places.to(torch.int32), C)
    assert torch.equal(answer, expected)
    OwnProducts(False).add_(y, x.float(), a, b, places, C)
    torch.testing.assert_close(answer, y)


def test_places_at_one_address_are_told_apart_by_their_strides() -> None:
    """As two views of one tensor have it."""
    x, a, b = made(3, 5, seed=1), made(3, 6, 1, seed=3), made(3, 5, 1, seed=4)
    of, products = torch.tensor([0, 1, 2, 0, 1]), OwnProducts(False)
    for places in (of[:3], of[::2]):
        y = torch.zeros(3, 6, dtype=torch.float64)
        products.add_(y, x, a, b, places, C)
        inner = torch.einsum("pn,pnr->pr", x, b[places])
        torch.testing.assert_close(y, C * torch.einsum("pr,pmr->pm", inner, a[places]))
