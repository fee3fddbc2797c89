"""Noise depends on neither the default dtype nor the default device of torch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from bszo.perturb import (
    Block,
    Blocks,
    ColumnSpace,
    Directions,
    Gaussian,
    LowRank,
    Mask,
    OuterProduct,
    Scaled,
    Sparse,
    Subspace,
    Unpadded,
    Weighted,
    noise,
    zeros_of,
)
from bszo.perturb.noise import eager, seeds

SHAPES = ((6, 8), (5,), (3, 4, 5))


def masked(params: list[Tensor]) -> Directions:
    return Sparse(Gaussian(params), Mask(params, 3, zeros_of(params, 0.5, "global")))


FAMILIES: dict[str, Callable[[list[Tensor]], Directions]] = {
    "gaussian": Gaussian,
    "one by one": lambda p: Gaussian(p).singly(),
    "rademacher": lambda p: Gaussian(p, "rademacher"),
    "rademacher, one by one": lambda p: Gaussian(p, "rademacher").singly(),
    "low rank": lambda p: LowRank(p, 2, 1),
    "column space": lambda p: ColumnSpace(p, 2, 1),
    "outer product": lambda p: OuterProduct(p, 2),
    "subspace": lambda p: Subspace(p, 2, 1, scaled=True, square=True),
    "sparse": masked,
    "blocks": lambda p: Blocks(Gaussian(p), [Block("a", (0, 2)), Block("b", (1,))]),
    "scaled": lambda p: Scaled(Gaussian(p), [torch.full_like(q, 3.0) for q in p]),
    "weighted": lambda p: Weighted(Gaussian(p), [0.5, 2.0, 1.0]),
    "unpadded": lambda p: Unpadded(Gaussian(p), {0: 2}),
}


@contextmanager
def defaults(dtype: torch.dtype, device: str) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


def drawn(make: Callable[[list[Tensor]], Directions], dtype: torch.dtype) -> list[Tensor]:
    eager._counters.cache_clear()
    seeds.key.cache_clear()
    params = [
        torch.linspace(-1, 1, torch.Size(s).numel(), dtype=torch.float32, device="cpu").view(s)
        for s in SHAPES
    ]
    params = [p.to(dtype) for p in params]
    family = make(params)
    rounding = 9 if dtype == torch.bfloat16 else None
    out = [family.direction(5, i) for i in range(3)]
    out += [family.coordinates(6, i) for i in range(3)]
    out += [family.shift(p, i, {5: 0.25, 6: -3.0}, decay=0.9) for i, p in enumerate(params)]
    rows = torch.tensor([4, 0], device="cpu")
    out.append(family.shift_rows(params[0], 0, rows, {5: 0.25}))
    family.shift_all_([{5: 0.25}] * 3, [0.9] * 3, [rounding] * 3)
    return out + params


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_family_under_every_default(family: str, dtype: torch.dtype) -> None:
    with defaults(torch.float32, "cpu"):
        expected = drawn(FAMILIES[family], dtype)
    assert all(z.dtype == torch.float32 for z in expected[:6])
    for default in (torch.float64, torch.float32, torch.bfloat16):
        for device in ("cpu", "meta"):
            with defaults(default, device):
                found = drawn(FAMILIES[family], dtype)
            for a, b in zip(found, expected, strict=True):
                assert a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
def test_the_generators_themselves(default: torch.dtype) -> None:
    shape, params = torch.Size((40,)), [torch.zeros(40)]
    counter = torch.arange(40, dtype=torch.int32)

    def values() -> list[Tensor]:
        return [
            noise.values(shape, 0, 7),
            noise.values(shape, 0, 7, distribution="rademacher"),
            *noise.values_of_all(params, 7),
            noise.bits(counter, 0, 7),
            noise.shift(params[0], 0, {7: 1.0, 8: 2.0}, decay=0.5),
            seeds.keys(7, 5),
        ]

    expected = values()
    for device in ("cpu", "meta"):
        with defaults(default, device):
            found = values()
        assert all(
            a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(found, expected, strict=True)
        )
