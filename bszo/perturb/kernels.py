"""Triton: the hash and the inverse normal of `bszo.perturb.noise`, and what is made of them in one pass."""

import math

import triton
import triton.language as tl

from bszo.perturb import noise

# in powers of log2(1 - x^2), which is what the hardware gives: w = -ln(2) log2(1 - x^2)
_P0, _P1, _P2, _P3 = (tl.constexpr(c * (-math.log(2)) ** i) for i, c in enumerate(noise.P))
_Q0, _Q1, _Q2, _Q3 = (tl.constexpr(c * (-math.log(2)) ** i) for i, c in enumerate(noise.Q))
_TO_UNIT = tl.constexpr(noise.TO_UNIT)
_GOLDEN = tl.constexpr(noise.GOLDEN & 0xFFFFFFFF)
_MIX_1, _MIX_2 = tl.constexpr(noise.MIX_1), tl.constexpr(noise.MIX_2 & 0xFFFFFFFF)


@triton.jit
def _word(high, low):
    return (high.to(tl.uint32) << 16) | low.to(tl.uint32)


@triton.jit
def _hash(counter, key_0, key_1):
    h = counter * _GOLDEN + key_0
    h = (h ^ (h >> 16)) * _MIX_1 + key_1
    return (h ^ (h >> 15)) * _MIX_2


@triton.jit
def _normal(bits):
    x = bits.to(tl.int32, bitcast=True).to(tl.float32) * _TO_UNIT
    log2_q = tl.inline_asm_elementwise("lg2.approx.ftz.f32 $0, $1;", "=f,f", [(1.0 - x) * (1.0 + x)],
                                       dtype=tl.float32, is_pure=True, pack=1)
    p = ((_P3 * log2_q + _P2) * log2_q + _P1) * log2_q + _P0
    q = ((_Q3 * log2_q + _Q2) * log2_q + _Q1) * log2_q + _Q0
    return x * tl.inline_asm_elementwise("div.approx.ftz.f32 $0, $1, $2;", "=f,f,f", [p, q], dtype=tl.float32,
                                         is_pure=True, pack=1)


@triton.jit
def _values(counter, key_0, key_1, RADEMACHER: tl.constexpr):
    bits = _hash(counter, key_0, key_1)
    if RADEMACHER:
        return (bits.to(tl.int32, bitcast=True) >> 31).to(tl.float32) * 2.0 + 1.0
    return _normal(bits)


@triton.jit
def _rounded(acc, counter, key, dtype: tl.constexpr, ROUND: tl.constexpr):
    if ROUND:
        bits = _hash(counter, _word(key[0], key[1]), _word(key[2], key[3]))
        raw = acc.to(tl.uint32, bitcast=True) + (bits & 0xFFFF)
        acc = (raw & 0xFFFF0000).to(tl.float32, bitcast=True)
    return acc.to(dtype)


@triton.jit
def shift(out, theta, counter, curvature, n, decay, terms, round_key, HAS_THETA: tl.constexpr,
          HAS_COUNTER: tl.constexpr, HAS_CURVATURE: tl.constexpr, ROUND: tl.constexpr, RADEMACHER: tl.constexpr,
          BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.uint32) * BLOCK + tl.arange(0, BLOCK).to(tl.uint32)
    inside = at < n
    element = tl.load(counter + at, mask=inside).to(tl.uint32, bitcast=True) if HAS_COUNTER else at
    acc = tl.zeros([BLOCK], tl.float32)
    if HAS_THETA:
        acc = tl.load(theta + at, mask=inside).to(tl.float32) * decay
    root = tl.zeros([BLOCK], tl.float32) + 1.0
    if HAS_CURVATURE:
        root = tl.rsqrt(tl.load(curvature + at, mask=inside, other=1.0).to(tl.float32))
    for i in tl.static_range(len(terms) // 5):
        key_0, key_1 = _word(terms[5 * i + 1], terms[5 * i + 2]), _word(terms[5 * i + 3], terms[5 * i + 4])
        acc += terms[5 * i] * (_values(element, key_0, key_1, RADEMACHER) * root)
    tl.store(out + at, _rounded(acc, element, round_key, out.dtype.element_ty, ROUND), mask=inside)


@triton.jit
def low_rank(out, theta, u, v, columns, decay, round_key, RANK: tl.constexpr, ROUND: tl.constexpr,
             BLOCK: tl.constexpr):
    row = tl.program_id(0)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < columns
    at = row.to(tl.int64) * columns + column
    acc = tl.load(theta + at, mask=inside).to(tl.float32) * decay
    for r in tl.static_range(RANK):
        acc += tl.load(u + row * RANK + r) * tl.load(v + column * RANK + r, mask=inside)
    tl.store(out + at, _rounded(acc, at.to(tl.uint32), round_key, out.dtype.element_ty, ROUND), mask=inside)
