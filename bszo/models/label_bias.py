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

from bszo.errors import ModelError
from bszo.models.encode import Encoded
from bszo.models.generate import GenerativeModel
from bszo.models.language_model import LanguageModel
from bszo.models.logistic import fit_logistic


def num_option_lists(encoded: Sequence[Encoded]) -> int:
    """How many lists of options the rows have; a label has a bias where they have one."""
    return len({tuple(option.tokens for option in row.options) for row in encoded})


def check_options(model: LanguageModel, encoded: Sequence[Encoded]) -> None:
    """ModelError unless there are rows, and every one has the same options."""
    if isinstance(model, GenerativeModel):
        raise ModelError(f"{model.name}: writes its answers, so that there is no label to prefer")
    if (count := num_option_lists(encoded)) != 1:
        raise ModelError(
            f"{model.name}: what is fitted for each label needs the same options in every row, and"
            f" {len(encoded)} rows have {count} lists of them"
        )


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
    check_options(model, encoded)
    scores = model.logits(encoded, max_tokens=max_tokens).double()  # (N, O)
    if model.label_bias is not None:
        scores = scores - model.label_bias.cpu()
    labels = torch.tensor([example.label for example in encoded])
    return fit_logistic(scores, labels)[1].float()
