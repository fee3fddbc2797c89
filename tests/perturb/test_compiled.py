"""The noise compiled from C is that of `spec`, and a machine that cannot compile goes without."""

import functools
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bszo.perturb import OuterProduct, compiled, noise
from bszo.perturb.compiled import loader
from bszo.perturb.noise import spec
from bszo.perturb.noise.seeds import key

TERMS = {11: 1e-3, 12: -0.37}
SIZES = (0, 1, 1023, 1024, 1025, 40_000)  # around the kernel's blocks
WORD = 1 << 32


@pytest.fixture
def unloaded() -> Iterator[None]:
    """The kernel as a new process finds it: neither compiled nor loaded."""
    loader.library.cache_clear()
    yield
    loader.library.cache_clear()


@functools.cache
def compiles() -> bool:
    return loader.library() is not None


@pytest.fixture(autouse=True)
def _compiler(request: pytest.FixtureRequest) -> None:
    if "unloaded" not in request.fixturenames and not compiles():
        pytest.skip("no C compiler here")


def seeded(size: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(3)).to(dtype)


@pytest.mark.parametrize("distribution", ["gaussian", "rademacher"])
@pytest.mark.parametrize("curved", [None, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("dtype", "rounding_seed"),
    [(torch.float32, None), (torch.float16, None), (torch.bfloat16, None), (torch.bfloat16, 4)],
)
def test_a_shift_is_the_eager_one_to_a_few_ulps(
    dtype: torch.dtype,
    rounding_seed: int | None,
    curved: torch.dtype | None,
    distribution: noise.Distribution,
) -> None:
    for size in SIZES:
        theta = seeded(size, dtype)
        how: dict[str, Any] = {
            "decay": 0.999,
            "rounding_seed": rounding_seed,
            "distribution": distribution,
            "curvature": None if curved is None else (seeded(size).abs() + 0.5).to(curved),
        }
        eager = noise.shift(theta, 1, TERMS, **how)
        fused = noise.shift(theta, 1, TERMS, fused=True, **how)
        spacing = {torch.float32: 4e-7, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}[dtype]
        torch.testing.assert_close(fused.float(), eager.float(), rtol=spacing, atol=4e-7)
        if dtype != torch.float32:  # another value only where the sum lies on a border
            assert int((fused != eager).sum()) <= 2e-3 * size + 1
        in_place = theta.clone()
        noise.shift(in_place, 1, TERMS, out=in_place, fused=True, **how)
        assert torch.equal(in_place, fused)


@pytest.mark.parametrize("distribution", ["gaussian", "rademacher"])
def test_values_of_many_seeds_are_those_of_each(distribution: noise.Distribution) -> None:
    for size in SIZES[1:]:
        shape, seeds = torch.Size((size,)), [1, 2**63 + 11, 2**64 - 1]
        keys = noise.keys_of_seeds(seeds, 5)[:, 3]
        together = noise.values_of_keys(shape, keys, distribution=distribution, fused=True)
        eagerly = noise.values_of_keys(shape, keys, distribution=distribution)
        torch.testing.assert_close(together, eagerly, rtol=2e-6, atol=1e-7)
        for seed, z in zip(seeds, together, strict=True):
            one = noise.values(shape, 3, seed, distribution=distribution, fused=True)
            assert torch.equal(z, one)
            eager = noise.values(shape, 3, seed, distribution=distribution)
            torch.testing.assert_close(z, eager, rtol=2e-6, atol=1e-7)


def unhashed(bits: int, key_0: int, key_1: int) -> int:
    """The counter that is hashed to these bits: the hash's steps backwards."""
    h = bits * pow(0x846CA68B, -1, WORD) % WORD
    h ^= (h >> 15) ^ (h >> 30)
    h = (h - key_1) * pow(0x7FEB352D, -1, WORD) % WORD
    h ^= h >> 16
    return (h - key_0) * pow(0x9E3779B9, -1, WORD) % WORD


def test_the_extremes_and_the_middle_of_the_normal() -> None:
    """Bits that a sample hardly ever meets: the ends, 0, and where the logarithm changes its
    exponent."""
    key_0, key_1 = (word % WORD for word in key(5, 0))
    signed = [0, 1, -1, 2**31 - 1, -(2**31), 1_518_500_250, *(2**e for e in range(8, 31))]
    signed += [2**31 - 2**e for e in range(7, 31)]
    expected = spec.normal(torch.tensor(signed, dtype=torch.int32))
    made = torch.empty(len(signed))
    for i, bits in enumerate(signed):
        first = unhashed(bits % WORD, key_0, key_1)
        compiled.shift(made[i : i + 1], None, [key(5, 0)], [1.0], first=first)
    torch.testing.assert_close(made, expected, rtol=2e-6, atol=0)
    assert made[0] == 0 and 5.0 < made[3] < 5.5 and -5.5 < made[4] < -5.0


def everything() -> list[torch.Tensor]:
    """What the library computes, each of it once."""
    theta, keys = seeded(200_000), noise.keys_of_seeds([1, 2], 1)[:, 0]
    matrix = theta[:199_500].view(399, 500)
    left, right = seeded(1197).view(399, 3), seeded(1500).view(3, 500)
    x, answer, of = seeded(9000).view(60, 150), seeded(11_700).view(60, 195), torch.arange(60) % 2
    compiled.add_own(answer, x, left[:390].view(2, 195, 3), right.view(2, 250, 3)[:, :150], of, 0.1)
    moved = torch.empty_like(matrix)
    compiled.shift(moved, matrix, [], [], product=(left, right), decay=0.9)
    return [
        noise.shift(theta.bfloat16(), 1, TERMS, decay=0.999, fused=True),
        noise.shift(theta, 1, TERMS, fused=True),
        noise.values_of_keys(torch.Size((50_000,)), keys, fused=True),
        moved,
        answer,
    ]


def test_the_number_of_threads_changes_no_bit() -> None:
    before, one = torch.get_num_threads(), everything()
    try:
        torch.set_num_threads(3)
        assert all(torch.equal(a, b) for a, b in zip(everything(), one, strict=True))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("rounding_seed", [None, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_what_is_no_number_stays_so(dtype: torch.dtype, rounding_seed: int | None) -> None:
    if rounding_seed is not None and dtype != torch.bfloat16:
        return
    theta = torch.tensor([float("inf"), -float("inf"), float("nan"), -float("nan"), 0.0])
    moved = noise.shift(theta.to(dtype), 1, TERMS, rounding_seed=rounding_seed, fused=True)
    assert moved[0] == float("inf") and moved[1] == -float("inf")
    assert moved[2:4].isnan().all() and moved[4].isfinite()


@pytest.mark.parametrize("rounding_seed", [None, 3])
def test_a_step_is_added_as_by_torch(rounding_seed: int | None) -> None:
    theta, step = seeded(4099, torch.bfloat16), noise.values(torch.Size((4099,)), 6, 8)
    how: dict[str, Any] = {"decay": 0.9, "rounding_seed": rounding_seed, "first": 700}
    once = noise.add(theta, step, 6, out=torch.empty_like(theta), **how)
    fused = noise.add(theta, step, 6, out=torch.empty_like(theta), fused=True, **how)
    at = theta.clone()
    assert torch.equal(noise.add(at, step, 6, out=at, fused=True, **how), fused)
    assert int((fused != once).sum()) <= 2e-3 * theta.numel()


@pytest.mark.parametrize(("dtype", "rounding_seed"), [(torch.float32, None), (torch.bfloat16, 3)])
@pytest.mark.parametrize("shape", [(5, 7), (3, 2050), (64, 1024), (700, 3), (9, 1100), (2, 40, 70)])
def test_a_product_is_added_as_by_torch(
    dtype: torch.dtype, rounding_seed: int | None, shape: tuple[int, ...]
) -> None:
    """Rows that are shorter than a block, longer, and of its size, in whole groups and not; and a
    stack of matrices."""
    theta = seeded(torch.Size(shape).numel(), dtype).view(shape)
    *experts, m, n = shape
    results = {}
    for rank in (1, 8, 17, 130):
        left, right = torch.randn(*experts, m, rank), torch.randn(*experts, rank, n)
        for fused in (True, False):
            family = OuterProduct([theta], rank)
            family.fused = fused
            results[fused] = family.add_product(
                theta, 0, left, right, 0.9, torch.empty_like(theta), rounding_seed
            ).double()
        expected = 0.9 * theta.double() + left.double() @ right.double()
        slack = 1e-5 if dtype == torch.float32 else 2**-7
        torch.testing.assert_close(results[True], expected, rtol=slack, atol=slack)
        assert int((results[True] != results[False]).sum()) <= (
            2e-3 * theta.numel() + 1 if dtype == torch.bfloat16 else theta.numel()
        )


def test_a_product_into_another_type_is_not_the_kernel_s() -> None:
    """Theta in bf16 read as fp32 would be twice as long as it is."""
    theta, left, right = seeded(12, torch.bfloat16).view(3, 4), torch.ones(3, 1), torch.ones(1, 4)
    family = OuterProduct([theta], 1)
    family.fused = True
    moved = family.add_product(theta, 0, left, right, 1.0, torch.empty(3, 4), None)
    assert torch.equal(moved, theta.float() + 1)
    with pytest.raises(ValueError, match="stochastic rounding is for bfloat16"):
        family.add_product(theta.float(), 0, left, right, 1.0, torch.empty(3, 4), 5)


def test_a_type_that_the_kernel_does_not_know_is_eager() -> None:
    theta = seeded(1025, torch.float64)
    eager = noise.shift(theta, 1, TERMS, curvature=theta.abs() + 1)
    assert torch.equal(noise.shift(theta, 1, TERMS, curvature=theta.abs() + 1, fused=True), eager)


@pytest.mark.parametrize("compiler", ["/nowhere/cc", "false"])
@pytest.mark.usefixtures("unloaded")
def test_a_machine_that_cannot_compile_makes_the_same_noise(
    compiler: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("CC", compiler)
    monkeypatch.setenv("BSZO_CACHE", str(tmp_path))
    theta = torch.ones(70_000)
    for seed in (1, 2):
        expected = noise.shift(theta, 0, {seed: 0.5})
        assert torch.equal(noise.shift(theta, 0, {seed: 0.5}, fused=True), expected)
    assert caplog.text.count("cannot be compiled here") == 1
    assert not list((tmp_path / "kernels").glob("*")), "nothing half-written stays"


@pytest.mark.usefixtures("unloaded")
def test_a_second_process_compiles_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BSZO_CACHE", str(tmp_path))
    if loader.library() is None:
        pytest.skip("no C compiler here")
    (kept,) = (tmp_path / "kernels").iterdir()
    before = kept.stat()
    loader.library.cache_clear()
    assert loader.library() is not None and kept.stat() == before


@pytest.mark.usefixtures("unloaded")
def test_a_cache_that_serves_no_kernel_is_done_without(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where the cache is a file, and where the kernel in it is damaged."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("BSZO_CACHE", str(tmp_path / "file"))
    if loader.library() is None:
        pytest.skip("no C compiler here")
    expected = noise.values(torch.Size((9,)), 0, 1, fused=True)
    monkeypatch.setenv("BSZO_CACHE", str(tmp_path / "damaged"))
    loader.library.cache_clear()
    loader.library()
    (kept,) = (tmp_path / "damaged" / "kernels").iterdir()
    kept.unlink()
    kept.write_bytes(b"no library")
    loader.library.cache_clear()
    assert torch.equal(noise.values(torch.Size((9,)), 0, 1, fused=True), expected)


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the flags are of x86-64")
@pytest.mark.parametrize("flags", [["-march=x86-64-v3"], ["-march=x86-64"], ["-O0"]])
def test_another_processor_finds_the_same_bits(
    flags: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Compiled for processors with shorter vectors, and with none at all."""
    here = everything()
    monkeypatch.setattr(loader, "_FASTER", [flags])
    monkeypatch.setenv("BSZO_CACHE", str(tmp_path))
    loader.library.cache_clear()
    try:
        assert loader.library() is not None, subprocess.list2cmdline(flags)
        assert all(torch.equal(a, b) for a, b in zip(everything(), here, strict=True))
    finally:
        loader.library.cache_clear()
