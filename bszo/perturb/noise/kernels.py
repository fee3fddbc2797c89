"""Triton kernels: the arithmetic of `spec`, and shifts of whole parameters in one pass."""

import math

import torch
import triton
import triton.language as tl

from bszo.perturb.noise import spec

TYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
# in powers of log2(1 - x^2), which is what the hardware gives: w = -ln(2) log2(1 - x^2)
_P0, _P1, _P2, _P3 = (
    tl.constexpr(c * (-math.log(2)) ** i * spec.TO_UNIT) for i, c in enumerate(spec.P)
)
_Q0, _Q1, _Q2, _Q3 = (tl.constexpr(c * (-math.log(2)) ** i) for i, c in enumerate(spec.Q))
_TO_UNIT = tl.constexpr(spec.TO_UNIT)
_GOLDEN = tl.constexpr(spec.GOLDEN & 0xFFFFFFFF)
_MIX_1, _MIX_2 = tl.constexpr(spec.MIX_1), tl.constexpr(spec.MIX_2 & 0xFFFFFFFF)


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
    wide = bits.to(tl.int32, bitcast=True).to(tl.float32)  # x / _TO_UNIT; P has the factor
    q = tl.fma(wide, -_TO_UNIT, 1.0) * tl.fma(wide, _TO_UNIT, 1.0)  # 1 - x^2, exact in the tails
    log2_q = tl.inline_asm_elementwise(
        "lg2.approx.ftz.f32 $0, $1;", "=f,f", [q], dtype=tl.float32, is_pure=True, pack=1
    )
    p = ((_P3 * log2_q + _P2) * log2_q + _P1) * log2_q + _P0
    q = ((_Q3 * log2_q + _Q2) * log2_q + _Q1) * log2_q + _Q0
    ratio = tl.inline_asm_elementwise(
        "div.approx.ftz.f32 $0, $1, $2;", "=f,f,f", [p, q], dtype=tl.float32, is_pure=True, pack=1
    )
    return wide * ratio


@triton.jit
def _values(counter, key_0, key_1, RADEMACHER: tl.constexpr):
    bits = _hash(counter, key_0, key_1)
    if RADEMACHER:
        return (bits.to(tl.int32, bitcast=True) >> 31).to(tl.float32) * 2.0 + 1.0
    return _normal(bits)


@triton.jit
def _stochastic(acc, counter, key_0, key_1):
    raw = acc.to(tl.uint32, bitcast=True) + (_hash(counter, key_0, key_1) & 0xFFFF)
    return (raw & 0xFFFF0000).to(tl.float32, bitcast=True)


@triton.jit
def _begun(value, drift):
    """What a sum begins with: theta; where it decays, (decay - 1) theta, and theta comes last."""
    return tl.where(drift == 0.0, value, drift * value)


@triton.jit
def _left(value, drift):
    """What is left to be added to the sum."""
    return tl.where(drift == 0.0, 0.0, value)


@triton.jit
def _rounded(acc, counter, key, dtype: tl.constexpr, ROUND: tl.constexpr):
    if ROUND:
        acc = _stochastic(acc, counter, _word(key[0], key[1]), _word(key[2], key[3]))
    return acc.to(dtype)


@triton.jit
def shift(
    out,
    theta,
    counter,
    curvature,
    n,
    drift,
    terms,
    round_key,
    HAS_THETA: tl.constexpr,
    HAS_COUNTER: tl.constexpr,
    HAS_CURVATURE: tl.constexpr,
    ROUND: tl.constexpr,
    RADEMACHER: tl.constexpr,
    BLOCK: tl.constexpr,
):
    at = tl.program_id(0).to(tl.uint32) * BLOCK + tl.arange(0, BLOCK).to(tl.uint32)
    inside = at < n
    element = tl.load(counter + at, mask=inside).to(tl.uint32, bitcast=True) if HAS_COUNTER else at
    value = tl.zeros([BLOCK], tl.float32)
    if HAS_THETA:
        value = tl.load(theta + at, mask=inside).to(tl.float32)
    acc = _begun(value, drift)
    root = tl.zeros([BLOCK], tl.float32) + 1.0
    if HAS_CURVATURE:
        root = tl.rsqrt(tl.load(curvature + at, mask=inside, other=1.0).to(tl.float32))
    for i in tl.static_range(len(terms) // 5):
        key_0 = _word(terms[5 * i + 1], terms[5 * i + 2])
        key_1 = _word(terms[5 * i + 3], terms[5 * i + 4])
        acc += terms[5 * i] * (_values(element, key_0, key_1, RADEMACHER) * root)
    acc += _left(value, drift)
    tl.store(out + at, _rounded(acc, element, round_key, out.dtype.element_ty, ROUND), mask=inside)


@triton.jit
def _part(
    theta, out, at, inside, row, TERMS: tl.constexpr, ROUND: tl.constexpr, RADEMACHER: tl.constexpr
):
    """One block of one tensor, with its parameter's row of scalars."""
    value = tl.load(theta + at, mask=inside).to(tl.float32)
    drift = tl.load(row + 3 * TERMS).to(tl.float32, bitcast=True)
    acc = _begun(value, drift)
    for i in tl.static_range(TERMS):
        key_0, key_1 = tl.load(row + 2 * i), tl.load(row + 2 * i + 1)
        factor = tl.load(row + 2 * TERMS + i).to(tl.float32, bitcast=True)
        acc += factor * _values(
            at, key_0.to(tl.uint32, bitcast=True), key_1.to(tl.uint32, bitcast=True), RADEMACHER
        )
    acc += _left(value, drift)
    if ROUND:
        key_0, key_1 = tl.load(row + 3 * TERMS + 1), tl.load(row + 3 * TERMS + 2)
        acc = _stochastic(
            acc, at, key_0.to(tl.uint32, bitcast=True), key_1.to(tl.uint32, bitcast=True)
        )
    tl.store(out + at, acc.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["first"])
def shift_many(
    wide,
    narrow,
    tensor_of,
    rows,
    first,
    count,
    DTYPE: tl.constexpr,
    TERMS: tl.constexpr,
    ROUND: tl.constexpr,
    RADEMACHER: tl.constexpr,
    SPAN: tl.constexpr,
    BLOCK: tl.constexpr,
):
    block = first + tl.program_id(0)
    t = tl.load(tensor_of + block)
    n = tl.load(narrow + t).to(tl.uint32, bitcast=True)
    start = (block - tl.load(narrow + count + t)).to(tl.uint32) * SPAN
    row = rows + tl.load(narrow + 2 * count + t) * (3 * TERMS + 3)
    theta = tl.multiple_of(tl.load(wide + t).to(tl.pointer_type(DTYPE)), 16)
    out = tl.multiple_of(tl.load(wide + count + t).to(tl.pointer_type(DTYPE)), 16)
    for part in range(0, SPAN, BLOCK):
        at = start + part + tl.arange(0, BLOCK).to(tl.uint32)
        if start + SPAN <= n:  # no mask, so that loads stay wide
            _part(theta, out, at, None, row, TERMS, ROUND, RADEMACHER)
        else:
            _part(theta, out, at, at < n, row, TERMS, ROUND, RADEMACHER)


@triton.jit
def shift_low_rank(
    out,
    theta,
    rows,
    columns,
    drift,
    terms,
    basis,
    round_key,
    RANK: tl.constexpr,
    ROUND: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < columns
    basis_0, basis_1 = _word(basis[0], basis[1]), _word(basis[2], basis[3])
    first = tl.program_id(0) * ROWS
    for row in range(first, tl.minimum(first + ROWS, rows)):
        at = row.to(tl.int64) * columns + column
        value = tl.load(theta + at, mask=inside).to(tl.float32)
        acc = _begun(value, drift)
        for r in tl.static_range(RANK):
            u = 0.0
            for i in tl.static_range(len(terms) // 5):
                key_0 = _word(terms[5 * i + 1], terms[5 * i + 2])
                key_1 = _word(terms[5 * i + 3], terms[5 * i + 4])
                u += terms[5 * i] * _normal(_hash((row * RANK + r).to(tl.uint32), key_0, key_1))
            # the same for all rows
            acc += u * _normal(_hash((column * RANK + r).to(tl.uint32), basis_0, basis_1))
        acc += _left(value, drift)
        tl.store(
            out + at,
            _rounded(acc, at.to(tl.uint32), round_key, out.dtype.element_ty, ROUND),
            mask=inside,
        )
