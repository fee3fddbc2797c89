"""The definition of the noise: a hash of counters, the inverse normal distribution, and stochastic
rounding.

An element's counter and the key of (seed, parameter) go through a 32-bit integer hash; its bits
become a uniform number, and that a normal one through the inverse of the normal distribution. So a
value depends on nothing else: not on device, chunk, shard, thread count, or on what was drawn
before. `eager` applies these formulas to whole parameters; `compiled/noise.c` and `kernels` are the
same arithmetic for a CPU and for a GPU.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

Distribution = Literal["gaussian", "rademacher"]
Terms = Mapping[int, float]  # {seed: coefficient}
NOISE_VERSION = 1  # a stored seed means the same direction only under the same version

GOLDEN = -1640531527  # 2^32 / golden ratio as int32: neighbouring counters land far apart
# odd multipliers with good avalanche (Wellons 2018)
MIX_1, MIX_2 = 0x7FEB352D, 0x846CA68B - (1 << 32)
# the largest int32, a power of two in fp32, must stay below 1
TO_UNIT = 2.0**-31 * (1.0 - 2.0**-24)

# sqrt(2) erfinv(x) = x P(w) / Q(w), w = -log(1 - x^2); least relative error over |x| < 1 - 2^-32:
# 4.9e-5
P = (1.25337484, 4.36772270e-01, 7.79533166e-02, 6.88299233e-03)
Q = (1.0, 8.71268688e-02, 2.58497449e-02, 3.35164675e-04)


def hashed(counter: Tensor, key_0: Tensor | int, key_1: Tensor | int) -> Tensor:
    """Hash int32 counters to int32 bits. The second key enters between the rounds, so that 64 bits
    tell streams apart."""
    h = (counter * GOLDEN).add_(key_0)
    # the mask makes the shift a logical one
    h = h.bitwise_xor_((h >> 16).bitwise_and_(0xFFFF)).mul_(MIX_1).add_(key_1)
    return h.bitwise_xor_((h >> 15).bitwise_and_(0x1FFFF)).mul_(MIX_2)


def normal(bits: Tensor) -> Tensor:
    """Turn int32 bits into N(0, 1) in fp32; |z| < 5.43, and the values are symmetric by
    construction."""
    x = bits.to(torch.float32).mul_(TO_UNIT)  # uniform on (-1, 1)
    # = -w; the product keeps the tails exact where 1 - x^2 would not
    log_q = (1.0 - x).mul_(1.0 + x).log_()
    p = (-P[3] * log_q).add_(P[2]).mul_(log_q).sub_(P[1]).mul_(log_q).add_(P[0])
    q = (-Q[3] * log_q).add_(Q[2]).mul_(log_q).sub_(Q[1]).mul_(log_q).add_(Q[0])
    return x.mul_(p.div_(q))


def drawn(
    counter: Tensor, key_0: Tensor | int, key_1: Tensor | int, distribution: Distribution
) -> Tensor:
    """Return z for int32 counters, in fp32."""
    bits = hashed(counter, key_0, key_1)
    if distribution == "rademacher":
        return (bits >> 31).to(torch.float32) * 2.0 + 1.0
    return normal(bits)


def rounded_to_bf16(acc: Tensor, bits: Tensor) -> Tensor:
    """Round to bf16 stochastically: up with the probability of the dropped fraction, so that
    E[round(a)] = a."""
    raw = acc.view(torch.int32) + (bits & 0xFFFF)
    return (raw & -65536).view(torch.float32).to(torch.bfloat16)
