"""Counter-based noise: z = f(seed, parameter, element), made where it is used and never stored.

An element's counter and the key of (seed, parameter) go through a 32-bit integer hash; its bits
become a uniform number, and that a normal one through the inverse of the normal distribution. So a
value depends on nothing else: not on device, chunk, shard, thread count, or on what was drawn
before. One function serves eager PyTorch (in chunks that stay in the cache) and `torch.compile`
(one fused pass); `bszo.perturb.gpu` is the same for a GPU.
"""

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from bszo.perturb import gpu
from bszo.perturb.seeds import key, keys

Distribution = Literal["gaussian", "rademacher"]
Terms = Mapping[int, float]  # {seed: coefficient}
NOISE_VERSION = 1  # a stored seed means the same direction only under the same version

GOLDEN = -1640531527  # 2^32 / golden ratio as int32: neighbouring counters land far apart
# odd multipliers with good avalanche (Wellons 2018)
MIX_1, MIX_2 = 0x7FEB352D, 0x846CA68B - (1 << 32)
# the largest int32, a power of two in fp32, must stay below 1
TO_UNIT = 2.0**-31 * (1.0 - 2.0**-24)
# 128 KB of fp32: the thirty passes of the eager form run in the second-level cache
_CHUNK = 1 << 15
# elements of a model from which one compilation (about 20 s) pays for itself
COMPILE_FROM = 16_000_000

# sqrt(2) erfinv(x) = x P(w) / Q(w), w = -log(1 - x^2); least relative error over |x| < 1 - 2^-32:
# 4.9e-5
P = (1.25337484, 4.36772270e-01, 7.79533166e-02, 6.88299233e-03)
Q = (1.0, 8.71268688e-02, 2.58497449e-02, 3.35164675e-04)

log = logging.getLogger(__name__)


def _hash(counter: Tensor, key_0: Tensor | int, key_1: Tensor | int) -> Tensor:
    """int32 counters -> int32 bits. The second key enters between the rounds: 64 bits tell streams
    apart."""
    h = (counter * GOLDEN).add_(key_0)
    # the mask makes the shift a logical one
    h = h.bitwise_xor_((h >> 16).bitwise_and_(0xFFFF)).mul_(MIX_1).add_(key_1)
    return h.bitwise_xor_((h >> 15).bitwise_and_(0x1FFFF)).mul_(MIX_2)


def _normal(bits: Tensor) -> Tensor:
    """int32 bits -> N(0, 1) in fp32, |z| < 5.43, symmetric by construction."""
    x = bits.to(torch.float32).mul_(TO_UNIT)  # uniform on (-1, 1)
    # = -w; the product keeps the tails exact where 1 - x^2 would not
    log_q = (1.0 - x).mul_(1.0 + x).log_()
    p = (-P[3] * log_q).add_(P[2]).mul_(log_q).sub_(P[1]).mul_(log_q).add_(P[0])
    q = (-Q[3] * log_q).add_(Q[2]).mul_(log_q).sub_(Q[1]).mul_(log_q).add_(Q[0])
    return x.mul_(p.div_(q))


def _values(
    counter: Tensor, key_0: Tensor | int, key_1: Tensor | int, distribution: Distribution
) -> Tensor:
    bits = _hash(counter, key_0, key_1)
    if distribution == "rademacher":
        return (bits >> 31).to(torch.float32) * 2.0 + 1.0
    return _normal(bits)


def _round_bf16(acc: Tensor, bits: Tensor) -> Tensor:
    """Stochastic rounding to bf16: up with the probability of the dropped fraction, so that
    E[round(a)] = a."""
    raw = acc.view(torch.int32) + (bits & 0xFFFF)
    return (raw & -65536).view(torch.float32).to(torch.bfloat16)


def _shift(
    theta: Tensor,
    counter: Tensor,
    keys: Tensor,
    factors: Tensor,
    round_key: Tensor | None,
    distribution: Distribution,
    curvature: Tensor | None,
) -> Tensor:
    acc = theta.to(torch.promote_types(theta.dtype, torch.float32)) * factors[0]
    for i in range(keys.shape[0]):
        z = _values(counter, keys[i, 0], keys[i, 1], distribution)
        if curvature is not None:
            z = z * curvature.to(torch.promote_types(curvature.dtype, torch.float32)).rsqrt()
        acc = acc + factors[i + 1] * z.to(acc.dtype)
    if round_key is not None:
        return _round_bf16(acc, _hash(counter, round_key[0], round_key[1]))
    return acc.to(theta.dtype)


def _shift_whole(
    out: Tensor,
    theta: Tensor,
    keys: Tensor,
    factors: Tensor,
    round_key: Tensor | None,
    distribution: Distribution,
    curvature: Tensor | None,
) -> None:
    counter = torch.arange(theta.numel(), dtype=torch.int32, device=theta.device)
    out.copy_(_shift(theta, counter, keys, factors, round_key, distribution, curvature))


def _shift_chunks(
    out: Tensor,
    theta: Tensor,
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
        out[part] = _shift(theta[part], counter, keys, factors, round_key, distribution, h)


class _Fused:
    """One compiled pass; on a machine that cannot compile, eager chunks from the first attempt
    on."""

    @functools.cached_property
    def kernel(self) -> Callable[..., None]:
        log.info(
            "compiling the noise kernel (once, about 20 s; later processes find it in PyTorch's"
            " cache)"
        )
        # one kernel a (dtype, number of terms); floats that are no tensors are the polynomials' and
        # of the code
        options = torch._dynamo.config.patch(recompile_limit=64, specialize_float=True)
        return options(torch.compile(_shift_whole, dynamic=True))

    def __call__(self, *args: Any) -> None:
        # not at the top: it takes seconds to load
        from torch._dynamo.exc import BackendCompilerFailed

        try:
            self.kernel(*args)
        except BackendCompilerFailed as error:
            log.warning(
                "the noise kernel cannot be compiled here, so it runs uncompiled and slower: %s",
                str(error).strip().partition("\n")[0],
            )
            self.kernel = _shift_chunks
            self.kernel(*args)


_fused = _Fused()


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
    """decay theta + sum_i c_i z_i / sqrt(h), accumulated in fp32 (fp64 for fp64 parameters) and
    rounded once.

    Args:
        theta: the parameter's values, any shape; not changed unless it is also `out`.
        parameter: its number among the parameters.
        terms: {seed: c}, in the order of summation.
        decay: factor on theta.
        out: where the result goes, a new tensor by default; contiguous.
        rounding_seed: round a bf16 result stochastically, with this seed's bits; None rounds to
            nearest.
        distribution: of the elements of z: N(0, 1), or +1 and -1 alike.
        fused: on a CPU, one compiled pass instead of eager chunks; the same numbers to the last few
            ulps.
        counter: int32, of theta's shape: the elements' numbers, where theta is a part (rows) of the
            parameter.
        curvature: h, of theta's shape; None for ones.

    Raises:
        ValueError: rounding_seed with a parameter that is not bf16, or a parameter of 2^31 elements
            or more.
    """
    _check_rounding(rounding_seed, theta.dtype)
    if theta.numel() >= 1 << 31:
        raise ValueError(
            f"parameter {parameter} has {theta.numel()} elements; the counter ends at 2^31"
        )
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
    flat = theta.reshape(-1)
    # in place: the compiler wants one tensor
    flat_out = flat if out.data_ptr() == theta.data_ptr() else out.view(-1)
    counter = None if counter is None else counter.reshape(-1)
    curvature = None if curvature is None else curvature.reshape(-1)
    pairs = [key(seed, parameter) for seed in terms]
    round_key = None if rounding_seed is None else key(rounding_seed, parameter)
    if gpu.serves(theta):
        gpu.shift(
            flat_out,
            flat,
            pairs,
            list(terms.values()),
            decay=decay,
            round_key=round_key,
            rademacher=distribution == "rademacher",
            counter=counter,
            curvature=curvature,
        )
        return out
    key_pairs = torch.tensor(pairs, dtype=torch.int32, device=theta.device).reshape(-1, 2)
    factors = torch.tensor(
        [decay, *terms.values()],
        dtype=torch.promote_types(theta.dtype, torch.float32),
        device=theta.device,
    )
    rounding = (
        None
        if round_key is None
        else torch.tensor(round_key, dtype=torch.int32, device=theta.device)
    )
    if counter is not None:
        flat_out.copy_(_shift(flat, counter, key_pairs, factors, rounding, distribution, curvature))
        return out
    apply = _fused if fused and not theta.is_cuda else _shift_chunks
    apply(flat_out, flat, key_pairs, factors, rounding, distribution, curvature)
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
    """z itself, fp32."""
    if torch.device(device).type == "cuda" and gpu.serves(z := torch.empty(shape, device=device)):
        gpu.shift(
            z.view(-1), None, [key(seed, parameter)], [1.0], rademacher=distribution == "rademacher"
        )
        return z
    zeros = torch.zeros(shape, device=device)
    return shift(zeros, parameter, {seed: 1.0}, out=zeros, distribution=distribution, fused=fused)


@functools.lru_cache(maxsize=4)
def _counters(sizes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Of each element of all parameters: its number in its parameter, and its parameter."""
    numbers = partial(torch.arange, dtype=torch.int32, device="cpu")
    counter = torch.cat([numbers(size) for size in sizes])
    return counter, numbers(len(sizes)).repeat_interleave(torch.tensor(sizes, device="cpu"))


def values_of_all(
    params: Sequence[Tensor], seed: int, *, distribution: Distribution = "gaussian"
) -> list[Tensor]:
    """z of every parameter in one sweep: for small models, where a call a parameter would cost more
    than its values."""
    sizes = tuple(p.numel() for p in params)
    key_0, key_1 = keys(seed, len(params)).T.contiguous()
    counter, parameter = _counters(sizes)
    flat = torch.empty(sum(sizes), device="cpu")
    for start in range(0, flat.numel(), _CHUNK):
        part = slice(start, start + _CHUNK)
        of = parameter[part]
        # four times as fast as key_0[of]
        own_0, own_1 = key_0.index_select(0, of), key_1.index_select(0, of)
        flat[part] = _values(counter[part], own_0, own_1, distribution)
    return [z.reshape(p.shape).to(p.device) for z, p in zip(flat.split(sizes), params, strict=True)]


def bits(counter: Tensor, parameter: int, seed: int) -> Tensor:
    """32 bits for each element's number, int32; two elements of a parameter never have the same."""
    return _hash(counter, *key(seed, parameter))


def round_to(
    acc: Tensor, parameter: int, rounding_seed: int | None, out: Tensor, *, first: int = 0
) -> Tensor:
    """acc, fp32 or fp64, rounded into `out`: to nearest, or stochastically as `shift` does; `first`
    numbers its first element, where it is a part of the parameter."""
    _check_rounding(rounding_seed, out.dtype)
    if rounding_seed is None:
        return out.copy_(acc)
    counter = torch.arange(first, first + acc.numel(), dtype=torch.int32, device=acc.device).view(
        acc.shape
    )
    return out.copy_(_round_bf16(acc, _hash(counter, *key(rounding_seed, parameter))))


def _check_rounding(rounding_seed: int | None, dtype: torch.dtype) -> None:
    if rounding_seed is not None and dtype != torch.bfloat16:
        raise ValueError(f"stochastic rounding is for bfloat16 parameters, not {dtype}")
