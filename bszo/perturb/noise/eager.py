"""Noise in PyTorch: z = f(seed, parameter, element), made where it is used and never stored.

The formulas of `bszo.perturb.noise.spec` run over a parameter in chunks that stay in the cache; or
a compiled kernel makes one pass, `compiled` or `gpu`.
"""

import functools
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from bszo.perturb import compiled
from bszo.perturb.noise import gpu
from bszo.perturb.noise.rounding import check_rounding
from bszo.perturb.noise.seeds import key, keys
from bszo.perturb.noise.spec import Distribution, Terms, drawn, hashed, rounded_to_bf16

# 128 KB of fp32: the thirty passes of the eager form run in the second-level cache
_CHUNK = 1 << 15


def _shift(
    theta: Tensor,
    counter: Tensor,
    decay: float,
    keys: Tensor,
    factors: Tensor,
    round_key: Tensor | None,
    distribution: Distribution,
    curvature: Tensor | None,
) -> Tensor:
    wide = theta.to(torch.promote_types(theta.dtype, torch.float32))
    acc = wide if decay == 1.0 else (decay - 1.0) * wide  # then theta itself comes last
    for i in range(keys.shape[0]):
        z = drawn(counter, keys[i, 0], keys[i, 1], distribution)
        if curvature is not None:
            z = z * curvature.to(torch.promote_types(curvature.dtype, torch.float32)).rsqrt()
        acc = acc + factors[i] * z.to(acc.dtype)
    if decay != 1.0:
        acc = acc + wide
    if round_key is not None:
        return rounded_to_bf16(acc, hashed(counter, round_key[0], round_key[1]))
    return acc.to(theta.dtype)


def _shift_chunks(
    out: Tensor,
    theta: Tensor,
    decay: float,
    keys: Tensor,
    factors: Tensor,
    round_key: Tensor | None,
    distribution: Distribution,
    curvature: Tensor | None,
) -> None:
    for start in range(0, theta.numel(), _CHUNK):
        part = slice(start, min(start + _CHUNK, theta.numel()))
        counter = torch.arange(part.start, part.stop, dtype=torch.int32, device=theta.device)
        h = None if curvature is None else curvature[part]
        out[part] = _shift(theta[part], counter, decay, keys, factors, round_key, distribution, h)


def shift(
    theta: Tensor,
    parameter: int,
    terms: Terms,
    *,
    decay: float = 1.0,
    out: Tensor | None = None,
    rounding_seed: int | None = None,
    distribution: Distribution = "gaussian",
    fused: bool = False,
    counter: Tensor | None = None,
    curvature: Tensor | None = None,
) -> Tensor:
    """Return decay theta + sum_i c_i z_i / sqrt(h), accumulated in fp32 (fp64 for fp64 parameters)
    and rounded once.

    A decay of 1 - 2e-8 is 1 in fp32. So where theta decays, the sum is that of (decay - 1) theta
    and all terms first, and theta is added to it: what the terms leave of a last digit takes the
    decay along, on average.

    Args:
        theta: the parameter's values, of any shape; they change only where `out` is theta itself.
        parameter: its number among the parameters.
        terms: {seed: c}, in the order of summation.
        decay: factor on theta.
        out: where the result goes; a new contiguous tensor by default.
        rounding_seed: rounds a bf16 result stochastically, with this seed's bits; None rounds to
            nearest.
        distribution: of the elements of z: N(0, 1), or +1 and -1 alike.
        fused: on a CPU, takes one compiled pass instead of eager chunks; the numbers are the same
            but for the last few ulps.
        counter: int32, of theta's shape: the elements' numbers, where theta is a part (rows) of the
            parameter.
        curvature: h, of theta's shape; None for ones.

    Raises:
        ValueError: rounding_seed with a parameter that is not bf16, or a parameter of 2^31 elements
            or more.
    """
    check_rounding(rounding_seed, theta.dtype)
    _check_size(theta.numel(), parameter)
    out = torch.empty_like(theta, memory_format=torch.contiguous_format) if out is None else out
    if not out.is_contiguous():
        return out.copy_(
            shift(
                theta,
                parameter,
                terms,
                decay=decay,
                rounding_seed=rounding_seed,
                distribution=distribution,
                fused=fused,
                counter=counter,
                curvature=curvature,
            )
        )
    flat, flat_out = theta.reshape(-1), out.view(-1)
    counter = None if counter is None else counter.reshape(-1)
    curvature = None if curvature is None else curvature.reshape(-1)
    pairs = [key(seed, parameter) for seed in terms]
    round_key = None if rounding_seed is None else key(rounding_seed, parameter)
    how: dict[str, Any] = {
        "decay": decay,
        "round_key": round_key,
        "rademacher": distribution == "rademacher",
        "curvature": curvature,
    }
    if gpu.serves(theta):
        gpu.shift(flat_out, flat, pairs, list(terms.values()), counter=counter, **how)
        return out
    if fused and counter is None and flat.dtype == out.dtype and compiled.serves(flat, curvature):
        compiled.shift(flat_out, flat, pairs, list(terms.values()), **how)
        return out
    key_pairs = torch.tensor(pairs, dtype=torch.int32, device=theta.device).reshape(-1, 2)
    factors = torch.tensor(
        list(terms.values()),
        dtype=torch.promote_types(theta.dtype, torch.float32),
        device=theta.device,
    )
    rounding = (
        None
        if round_key is None
        else torch.tensor(round_key, dtype=torch.int32, device=theta.device)
    )
    if counter is not None:
        flat_out.copy_(
            _shift(flat, counter, decay, key_pairs, factors, rounding, distribution, curvature)
        )
        return out
    _shift_chunks(flat_out, flat, decay, key_pairs, factors, rounding, distribution, curvature)
    return out


def values(
    shape: torch.Size,
    parameter: int,
    seed: int,
    *,
    device: torch.device | str = "cpu",
    distribution: Distribution = "gaussian",
    fused: bool = False,
) -> Tensor:
    """Return z itself, in fp32."""
    if torch.device(device).type == "cuda" and gpu.serves(
        z := torch.empty(shape, dtype=torch.float32, device=device)
    ):
        gpu.shift(
            z.view(-1), None, [key(seed, parameter)], [1.0], rademacher=distribution == "rademacher"
        )
        return z
    _check_size(shape.numel(), parameter)
    z = torch.empty(shape, dtype=torch.float32, device=device)
    flat, pair = z.view(-1), key(seed, parameter)
    if fused and compiled.serves(z):
        compiled.draw(
            flat[None],
            torch.tensor([pair], dtype=torch.int32, device="cpu"),
            rademacher=distribution == "rademacher",
        )
        return z
    for start in range(0, flat.numel(), _CHUNK):
        stop = min(start + _CHUNK, flat.numel())
        counter = torch.arange(start, stop, dtype=torch.int32, device=device)
        flat[start:stop] = drawn(counter, *pair, distribution)
    return z


def values_of_keys(
    shape: torch.Size,
    pairs: Tensor,
    *,
    device: torch.device | str = "cpu",
    distribution: Distribution = "gaussian",
    fused: bool = False,
) -> Tensor:
    """Return `values` under many keys at once: (len(pairs), *shape), fp32. `pairs` is (keys, 2),
    int32 on the CPU; those of parameter i are `keys_of_seeds(seeds, count)[:, i]`."""
    out = torch.empty((len(pairs), shape.numel()), dtype=torch.float32, device=device)
    rademacher = distribution == "rademacher"
    if gpu.serves(out):
        for z, (low, high) in zip(out, pairs.tolist(), strict=True):
            gpu.shift(z, None, [(low, high)], [1.0], rademacher=rademacher)
    elif fused and compiled.serves(out):
        compiled.draw(out, pairs, rademacher=rademacher)
    else:
        both = pairs.to(device)
        counter = torch.arange(out.shape[1], dtype=torch.int32, device=device).expand_as(out)
        out.copy_(drawn(counter, both[:, :1], both[:, 1:], distribution))
    return out.view(-1, *shape)


def values_at(
    counter: Tensor,
    parameter: int,
    seeds: Sequence[int],
    of: Tensor,
    *,
    distribution: Distribution = "gaussian",
) -> Tensor:
    """Return single elements of `values` of one parameter under many seeds, fp32: element number
    `counter` under the `of`-th seed. Both are integers, and their shapes broadcast."""
    words = torch.tensor(
        [key(seed, parameter) for seed in seeds], dtype=torch.int32, device=counter.device
    )
    shape = torch.broadcast_shapes(counter.shape, of.shape)
    key_0, key_1 = words[of].unbind(-1)
    return drawn(counter.to(torch.int32).expand(shape), key_0, key_1, distribution)


@functools.lru_cache(maxsize=4)
def _counters(sizes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return, for each element of all parameters, its number in its parameter and the number of its
    parameter."""
    numbers = partial(torch.arange, dtype=torch.int32, device="cpu")
    counter = torch.cat([numbers(size) for size in sizes])
    return counter, numbers(len(sizes)).repeat_interleave(torch.tensor(sizes, device="cpu"))


def values_of_all(
    params: Sequence[Tensor], seed: int, *, distribution: Distribution = "gaussian"
) -> list[Tensor]:
    """Return z of every parameter from one sweep. In a small model a call for each parameter would
    cost more than its values."""
    sizes = tuple(p.numel() for p in params)
    key_0, key_1 = keys(seed, len(params)).T.contiguous()
    counter, parameter = _counters(sizes)
    flat = torch.empty(sum(sizes), dtype=torch.float32, device="cpu")
    for start in range(0, flat.numel(), _CHUNK):
        part = slice(start, start + _CHUNK)
        of = parameter[part]
        # four times as fast as key_0[of]
        own_0, own_1 = key_0.index_select(0, of), key_1.index_select(0, of)
        flat[part] = drawn(counter[part], own_0, own_1, distribution)
    return [z.reshape(p.shape).to(p.device) for z, p in zip(flat.split(sizes), params, strict=True)]


def bits(counter: Tensor, parameter: int, seed: int) -> Tensor:
    """Return 32 bits for each element's number, int32; no two elements of a parameter have the
    same."""
    return hashed(counter, *key(seed, parameter))


def bits_of_seeds(counter: Tensor, parameter: int, seeds: Sequence[int]) -> Tensor:
    """Return `bits` under many seeds at once, of a counter (n,): (len(seeds), n)."""
    pairs = [key(seed, parameter) for seed in seeds]
    both = torch.tensor(pairs, dtype=torch.int32, device=counter.device)
    return hashed(counter.expand(len(seeds), -1), both[:, :1], both[:, 1:])


def _check_size(num_elements: int, parameter: int) -> None:
    if num_elements >= 1 << 31:
        raise ValueError(
            f"parameter {parameter} has {num_elements} elements; the counter ends at 2^31"
        )
