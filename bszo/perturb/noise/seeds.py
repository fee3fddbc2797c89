"""Seeds: 64-bit hashes of integers, from which all that is random follows, and the keys under which
elements are hashed."""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

_MASK64 = (1 << 64) - 1


def mix64(*words: int) -> int:
    """Return a 64-bit hash of integers (SplitMix64's finalizer folded over them); every seed and
    key is one."""
    h = 0
    for word in words:
        h = (h + (word & _MASK64) + 0x9E3779B97F4A7C15) & _MASK64
        h = ((h ^ (h >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
        h = ((h ^ (h >> 27)) * 0x94D049BB133111EB) & _MASK64
        h ^= h >> 31
    return h


@functools.lru_cache(maxsize=4096)
def key(seed: int, parameter: int) -> tuple[int, int]:
    """Return the two signed 32-bit words under which one parameter's elements are hashed."""
    h = mix64(seed, parameter)
    low, high = h & 0xFFFFFFFF, h >> 32
    return low - ((low >> 31) << 32), high - ((high >> 31) << 32)


def keys(seed: int, count: int) -> Tensor:
    """Return `key` of the first `count` parameters at once: (count, 2) int32."""
    return keys_of_seeds([seed], count)[0]


def keys_of_seeds(seeds: Sequence[int], count: int) -> Tensor:
    """Return `keys` under each seed: (len(seeds), count, 2) int32."""
    starts = [(mix64(seed) + 0x9E3779B97F4A7C15) & _MASK64 for seed in seeds]
    # int64 arithmetic wraps, as `mix64`'s mask does
    signed = torch.tensor(
        [start - ((start >> 63) << 64) for start in starts], dtype=torch.int64, device="cpu"
    )
    h = torch.arange(count, device="cpu") + signed[:, None]
    h = (h ^ ((h >> 30) & (_MASK64 >> 30))) * (0xBF58476D1CE4E5B9 - (1 << 64))
    h = (h ^ ((h >> 27) & (_MASK64 >> 27))) * (0x94D049BB133111EB - (1 << 64))
    h = h ^ ((h >> 31) & (_MASK64 >> 31))
    return h.view(torch.int32).view(len(seeds), count, 2)  # the low word first
