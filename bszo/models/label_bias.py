"""A bias of each label: what a model can learn of a task without looking at a text.

    score(o) <- s(o) + b_o        b = argmin  mean_i CE(s(x_i) + b, y_i) + |b|^2 / (2 N TAU^2)

Here s(x_i) are the scores of the model as it is, of N training rows, so that b costs one look at
each. It is a baseline for every method that trains, and a start for it: a pretrained model often
prefers one answer whatever the text says (Zhao et al. 2021, arXiv 2102.09690, who estimate that
without labels).
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from bszo.errors import ModelError
from bszo.models.encode import Encoded
from bszo.models.generate import GenerativeModel
from bszo.models.language_model import LanguageModel

TAU = 10.0  # nats; so wide a prior that it matters only where a label has no row


def num_option_lists(encoded: Sequence[Encoded]) -> int:
    """How many lists of options the rows have; a label has a bias where they have one."""
    return len({tuple(option.tokens for option in row.options) for row in encoded})


def fit_label_bias(model: LanguageModel, encoded: Sequence[Encoded], *, max_tokens: int) -> Tensor:
    """b, (O,) float32, of the model's scores; its mean is 0.

    Where every label has a row, the mean probability of each label over the rows is then its
    share of them.

    Args:
        encoded: the training rows.
        max_tokens: bounds the padded positions of a pass.

    Raises:
        ModelError: the model writes its answers, there is no row, or options differ from row to
            row, so that a label has no bias.

    Example:
        model.label_bias = fit_label_bias(model, rows, max_tokens=8192)
    """
    if isinstance(model, GenerativeModel):
        raise ModelError(f"{model.name}: writes its answers, so that there is no label to prefer")
    if (count := num_option_lists(encoded)) != 1:
        raise ModelError(
            f"{model.name}: a bias of each label needs the same options in every row, and"
            f" {len(encoded)} rows have {count} lists of them"
        )
    scores = model.logits(encoded, max_tokens=max_tokens).double()  # (N, O)
    if model.label_bias is not None:
        scores = scores - model.label_bias.cpu()
    labels = torch.tensor([example.label for example in encoded])
    bias = torch.zeros(scores.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [bias],
        max_iter=500,
        tolerance_grad=1e-9,
        tolerance_change=1e-15,
        line_search_fn="strong_wolfe",
    )

    @torch.enable_grad()
    def loss() -> Tensor:
        optimizer.zero_grad()
        prior = bias.square().sum() / (2 * len(labels) * TAU**2)
        value = cross_entropy(scores + bias, labels) + prior
        value.backward()
        return value

    optimizer.step(loss)
    return bias.detach().float()
