"""A linear probe fitted at once, on one look at each training row: no step of any optimizer.

    score(o) = s(o) + w_o . phi_o + b_o

s(o) is the model's own score of option o, and phi_o its last hidden state, averaged over the
positions where o's tokens are read. w and b are those of a logistic regression on the N training
rows (`bszo.models.logistic`), in which every dimension of phi has mean 0 and deviation 1; the
spread of w is the one of SPREADS with the least loss on rows held out of its fit. So the prior's
middle is the model as it is, and a spread near 0 is a bias of each label alone.

It costs as many forward passes as the rows fill batches, and is the baseline that a method which
trains the whole model has to be better than (Malladi et al. 2023, arXiv 2305.17333, table 1, LP).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bszo.errors import ModelError
from bszo.models.encode import Encoded
from bszo.models.label_bias import check_options
from bszo.models.language_model import LanguageModel
from bszo.models.logistic import added, cross_validated, fit_logistic

SPREADS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


@dataclass(frozen=True)
class FittedProbe:
    """The head of a linear probe, and how far its elements were allowed to go.

    Attributes:
        weight: (O, H) float64, of the hidden state as it is.
        bias: (O,) float64.
        spread: prior deviation of w for hidden states of deviation 1.
        losses: for each of SPREADS the mean loss on rows held out of the fit, in nats.
    """

    weight: Tensor
    bias: Tensor
    spread: float
    losses: dict[float, float]

    def scores(self, scores: Tensor, features: Tensor) -> Tensor:
        """s + w . phi + b, (N, O) float64."""
        return added(scores.double(), features.double(), self.weight, self.bias)


def fit_probe(model: LanguageModel, encoded: Sequence[Encoded], *, max_tokens: int) -> FittedProbe:
    """The probe of a model's last hidden state on these rows.

    Args:
        encoded: the training rows, at least two.
        max_tokens: bounds the padded positions of a pass.

    Raises:
        ModelError: there is no hidden state to read, there are fewer than two rows, or options
            differ from row to row.

    Example:
        probe = fit_probe(model, rows, max_tokens=8192)
        scores = probe.scores(*model.features(others, max_tokens=8192))
    """
    check_options(model, encoded)
    if len(encoded) < 2:
        raise ModelError(f"{model.name}: a linear probe is fitted on at least 2 rows, got 1")
    labels = torch.tensor([row.label for row in encoded])
    return fit_features(*model.features(encoded, max_tokens=max_tokens), labels)


def fit_features(scores: Tensor, features: Tensor, labels: Tensor) -> FittedProbe:
    """The same of s, (N, O), phi, (N, O, H), and y, (N,), that are there already."""
    phi = features.double()
    mean, deviation = phi.mean((0, 1)), phi.std((0, 1))
    deviation = torch.where(deviation > 0, deviation, 1.0)  # of a constant dimension
    if bool((features == features[:, :1]).all()):
        phi = phi[:, :1]  # all options are read in one place
    phi = (phi - mean) / deviation
    # the prior keeps w among the combinations of the rows, so that their span is room enough for it
    span = _span(phi.flatten(0, 1))
    phi = phi @ span
    losses = cross_validated(scores, labels, phi, SPREADS)
    spread = min(losses, key=lambda spread: losses[spread])
    weight, bias = fit_logistic(scores, labels, phi, spread=spread)
    assert weight is not None
    weight = weight @ span.T / deviation
    return FittedProbe(weight, bias - weight @ mean, spread, losses)


def _span(rows: Tensor) -> Tensor:
    """Orthonormal columns that span the rows (R, H): (H, R) where rows are fewer than dimensions,
    else those of the dimensions themselves."""
    count, width = rows.shape
    return torch.linalg.qr(rows.T)[0] if count < width else torch.eye(width, dtype=rows.dtype)
