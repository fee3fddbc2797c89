"""Option scores from a model's logits, computed only where an option stands.

score(option) = mean over its tokens t of log p(t | what the model sees there), in float32.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bszo.models.batch import Batch


def _head(module: nn.Module) -> nn.Module | None:
    """The LM's direct child that holds the output embeddings: `lm_head`, BERT's `cls`, ...; or None."""
    from transformers import PreTrainedModel

    # the outermost one: below adapters' wrappers, above the encoder
    model = next((part for part in module.modules() if isinstance(part, PreTrainedModel)), None)
    embeddings = model.get_output_embeddings() if model is not None else None
    if model is None or embeddings is None:
        return None
    return next(
        (child for child in model.children() if any(part is embeddings for part in child.modules())), None
    )


def _take(values: Tensor, batch: Batch) -> Tensor:
    """The batch's N positions of `values` (R, T + v, H), v virtual tokens of a prompt adapter in front."""
    virtual = values.shape[1] - batch.input_ids.shape[1]
    return values[batch.rows.to(values.device), batch.columns.to(values.device) + virtual]  # (N, H)


@contextmanager
def _only_at(head: nn.Module | None, batch: Batch) -> Iterator[list[bool]]:
    """While active, `head` sees (1, N, H) instead of (R, T, H): those at the batch's positions.

    Over 50,000 words the head is a third of OPT-125M's arithmetic, and only N of R * T positions count.
    Yields a list that is non-empty once the head has run on gathered states.
    """
    gathered: list[bool] = []

    def gather(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not args or not isinstance(args[0], Tensor) or args[0].dim() != 3:
            return None
        gathered.append(True)
        return (_take(args[0], batch).unsqueeze(0), *args[1:]), kwargs

    handle = head.register_forward_pre_hook(gather, with_kwargs=True) if head is not None else None
    try:
        yield gathered
    finally:
        if handle is not None:
            handle.remove()


def position_logits(module: nn.Module, batch: Batch, *, causal: bool) -> Tensor:
    """Logits (N, V) at the batch's positions, in the model's dtype.

    A causal model gets no attention mask: padding stands on the right, where no position of interest can see
    it, and plain causal attention is the faster kernel.
    """
    inputs: dict[str, Any] = {"input_ids": batch.input_ids}
    inputs |= {"use_cache": False} if causal else {"attention_mask": batch.attention_mask}
    with _only_at(_head(module), batch) as gathered:
        logits = module(**inputs).logits
    return logits.squeeze(0) if gathered else _take(logits, batch)


def option_scores(module: nn.Module, batch: Batch, *, causal: bool) -> Tensor:
    """Mean log-probability of each option's tokens, (B, O) float32; -inf where there is no such option."""
    logits = position_logits(module, batch, causal=causal).float().to(batch.tokens.device)  # (N, V)
    log_norm = logits.logsumexp(-1)  # (N,)
    log_prob = logits[batch.position, batch.tokens] - log_norm[batch.position]  # (B, O, L)
    total = torch.where(batch.present, log_prob, 0.0).sum(-1)
    count = batch.present.sum(-1)
    return torch.where(count > 0, total / count.clamp(min=1), -torch.inf)
