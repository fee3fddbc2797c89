"""Logistic regression on top of scores that are there already.

    p(o | i)  is proportional to  exp(s_io + w_o . phi_io + b_o)
    w, b = argmin  mean_i -log p(y_i | i) + (|w|^2 / spread^2 + |b|^2 / TAU^2) / (2 N)

That is the most probable w and b where both are normal around 0 beforehand, w with standard
deviation `spread` and b with TAU. Without features phi only b is fitted. The problem is convex;
L-BFGS solves it in float64.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

TAU = 10.0  # nats; so wide a prior that it matters only where a label has no row
NUM_FOLDS = 5


def added(scores: Tensor, features: Tensor | None, weight: Tensor | None, bias: Tensor) -> Tensor:
    """s_io + w_o . phi_io + b_o, (N, O); phi is (N, O, H), or (N, 1, H) where options share it."""
    if features is None or weight is None:
        return scores + bias
    if features.shape[1] == 1:
        return scores + features[:, 0] @ weight.T + bias
    by_option = features.transpose(0, 1)  # (O, N, H)
    return scores + (by_option @ weight[..., None])[..., 0].T + bias


def fit_logistic(
    scores: Tensor, labels: Tensor, features: Tensor | None = None, *, spread: float = 1.0
) -> tuple[Tensor | None, Tensor]:
    """w, (O, H), or None without features, and b, (O,), both float64.

    Args:
        scores: s, (N, O), of which a number that a row's options share is of no matter.
        labels: y, (N,) integers.
        features: phi, (N, O, H), or (N, 1, H) where all options have the same.
        spread: prior standard deviation of each element of w, in scores per unit of phi.
    """
    scores = scores.double()
    bias = torch.zeros(scores.shape[1], dtype=torch.float64, requires_grad=True)
    weight = None
    if features is not None:
        # the products are by option, each of which then lies in one piece
        features = features.double().transpose(0, 1).contiguous().transpose(0, 1)
        shape = (scores.shape[1], features.shape[2])
        weight = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [bias] if weight is None else [bias, weight],
        max_iter=500,
        tolerance_grad=1e-9 if weight is None else 1e-7,
        tolerance_change=1e-15 if weight is None else 1e-12,
        line_search_fn="strong_wolfe",
    )

    @torch.enable_grad()
    def loss() -> Tensor:
        optimizer.zero_grad()
        prior = bias.square().sum() / (2 * len(labels) * TAU**2)
        if weight is not None:
            prior = prior + weight.square().sum() / (2 * len(labels) * spread**2)
        value = cross_entropy(added(scores, features, weight, bias), labels) + prior
        value.backward()
        return value

    optimizer.step(loss)
    return None if weight is None else weight.detach(), bias.detach()


def cross_validated(
    scores: Tensor, labels: Tensor, features: Tensor, spreads: Sequence[float]
) -> dict[float, float]:
    """Each spread with its mean loss on rows that it was not fitted on.

    Row i is in fold i mod NUM_FOLDS, and the rows of each fold are scored by the fit on the others;
    N is at least 2.
    """
    folds = torch.arange(len(labels)) % min(NUM_FOLDS, len(labels))
    losses = {}
    for spread in spreads:
        total = 0.0
        for fold in range(int(folds.max()) + 1):
            held = folds == fold
            fit = fit_logistic(scores[~held], labels[~held], features[~held], spread=spread)
            found = added(scores[held].double(), features[held].double(), *fit)
            total += cross_entropy(found, labels[held], reduction="sum").item()
        losses[spread] = total / len(labels)
    return losses
