"""Sampling of written answers by noise that is a function of where it is used.

    token t = argmax_v [logit_v / T + G_v],   G_v = - log(- log u_v),
    u_v = (hash of (seed, step, question, sample, t, v) + 1/2) / 2^32

G is Gumbel noise, so that a token has its probability softmax(logits / T) (Gumbel 1954; Maddison et
al. 2014, arXiv 1411.0030, section 2). No generator is read or moved, and all points of a step draw
the same u: theta + eps z and theta - eps z then write different tokens with a probability of at
most 2 D / (1 + D), where D is the total variation between their distributions. An inverse
distribution function needs one u a token and has no such bound.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from bszo.perturb.noise import bits_of_seeds, mix64

STREAM = -9  # tells these seeds from an optimizer's


class Gumbel:
    """(ids, logits) -> logits + T G, of which generation takes the greatest, at one token after
    another.

    Args:
        seeds: one a row (see `seed_of`).
        temperature: T.
        width: columns of `ids` before the first new token.
    """

    def __init__(self, seeds: Sequence[int], temperature: float, width: int) -> None:
        self.seeds, self.temperature, self.width = seeds, temperature, width

    def __call__(self, ids: Tensor, logits: Tensor) -> Tensor:
        """Logits (R, V) with noise, float64; ids (R, T) say how many tokens there are."""
        words = torch.arange(logits.shape[1], dtype=torch.int32, device=logits.device)
        bits = bits_of_seeds(words, ids.shape[1] - self.width, self.seeds)  # (R, V)
        # int32 bits as a number within (0, 1), whose ends float64 keeps apart from 0 and 1
        u = (bits.double() + (2.0**31 + 0.5)) * 2.0**-32
        return logits.double() - self.temperature * u.log().neg().log()


def seed_of(seed: int, step: int, question: str, sample: int) -> int:
    """The seed of one sample at one step; the question counts by its id, wherever in a batch it
    stands."""
    return mix64(seed, step, STREAM, mix64(*question.encode()), sample)
