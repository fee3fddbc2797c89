"""Orthogonalised steps: msign(G), which has G's singular vectors and singular values of one."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Update = Literal["newton-schulz", "exact", "norm"]
QUINTIC = (3.4445, -4.7750, 2.0315)  # of Muon: it brings singular values near 1, not to it
ROUNDS = 5
LENGTH = 0.7  # of a singular value after the rounds, about, where G's are alike


def orthogonalised(g: Tensor, update: Update) -> Tensor:
    """Return msign(G) for G (..., r, n), or what stands in its place; zero where G is zero.

    - newton-schulz: ROUNDS times X <- a X + (b X X^T + c (X X^T)^2) X, from G / (|G|_F + 1e-7).
    - exact: U V^T of the singular value decomposition, without the directions that G lacks.
    - norm: LENGTH sqrt(r) G / |G|_F, as long as the first where G's rows are nearly orthogonal.

    It computes in G's type, under an autocast too: whoever calls it sees to float32 at least.

    Source: Jordan et al. 2024 (Muon), whose coefficients they are; "norm" is this project's.
    """
    with torch.autocast(g.device.type, enabled=False):
        return _FORMULAS[update](g)


def newton_schulz(g: Tensor) -> Tensor:
    if g.shape[-2] > g.shape[-1]:
        return newton_schulz(g.mT).mT  # X X^T is as small as it can be
    a, b, c = QUINTIC
    x = g / (_norm(g) + 1e-7)
    for _ in range(ROUNDS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def exact(g: Tensor) -> Tensor:
    u, s, vh = torch.linalg.svd(g, full_matrices=False)
    least = torch.finfo(g.dtype).eps * max(g.shape[-2:]) * s[..., :1]
    return (u * (s > least).unsqueeze(-2)) @ vh


def norm(g: Tensor) -> Tensor:
    size = _norm(g)
    return torch.where(size > 0, LENGTH * g.shape[-2] ** 0.5 * g / size, 0.0)


def _norm(g: Tensor) -> Tensor:
    return torch.linalg.vector_norm(g, dim=(-2, -1), keepdim=True)


_FORMULAS: dict[Update, Callable[[Tensor], Tensor]] = {
    "newton-schulz": newton_schulz,
    "exact": exact,
    "norm": norm,
}
