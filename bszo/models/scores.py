"""Option scores from a model's logits, which are computed only where an option is read.

score(option) = mean over its tokens t of log p(t | what the model sees there), in float32.
"""

import torch
from torch import Tensor, nn

from bszo.models import head
from bszo.models.batch import Batch
from bszo.models.traits import Shortcut, inputs_of


def position_logits(
    module: nn.Module, batch: Batch, *, causal: bool, shortcut: Shortcut = "words"
) -> Tensor:
    """Logits (N, V) at the batch's positions, in the model's dtype."""
    inputs = inputs_of(module, batch, causal)
    if shortcut == "none":
        return head.at_positions(module(**inputs).logits, batch)
    return head.run(module, inputs, batch, None)[0]


def option_scores(
    module: nn.Module, batch: Batch, *, causal: bool, shortcut: Shortcut = "words"
) -> Tensor:
    """Mean log-probability of each option's tokens, (B, O) float32; -inf where there is no such
    option."""
    return _scores(position_logits(module, batch, causal=causal, shortcut=shortcut), batch)


def option_logits(
    module: nn.Module, batch: Batch, *, causal: bool, shortcut: Shortcut = "words"
) -> Tensor:
    """`option_scores` up to a number that an example's options share, which neither a softmax nor a
    maximum over them sees.

    Where every option is one token and all options of an example are read at one place, that number
    is the normaliser over the vocabulary. Without it the output layer needs the options' own rows
    alone.
    """
    if shortcut != "words":
        return option_scores(module, batch, causal=causal, shortcut=shortcut)
    logits, narrow = head.run(module, inputs_of(module, batch, causal), batch, batch.words)
    if not narrow or batch.words is None:
        return _scores(logits, batch)
    logits = logits.float().to(batch.tokens.device)  # (N, W)
    # (B, O)
    word = torch.searchsorted(batch.words, batch.tokens[..., 0].contiguous()).clamp(
        max=len(batch.words) - 1
    )
    return torch.where(batch.present[..., 0], logits[batch.position[..., 0], word], -torch.inf)


def _scores(logits: Tensor, batch: Batch) -> Tensor:
    logits = logits.float().to(batch.tokens.device)  # (N, V)
    log_norm = logits.logsumexp(-1)  # (N,)
    log_prob = logits[batch.position, batch.tokens] - log_norm[batch.position]  # (B, O, L)
    total = torch.where(batch.present, log_prob, 0.0).sum(-1)
    count = batch.present.sum(-1)
    return torch.where(count > 0, total / count.clamp(min=1), -torch.inf)
