"""Modules of `transformers` below the wrappers of adapters: the outermost model, and the number of
its positions."""

from typing import Any

from torch import nn

# what configurations call the number of positions; the first that holds a number counts
POSITIONS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "n_ctx",
    "seq_length",
    "max_sequence_length",
    "context_length",
    "max_target_positions",
)


def outermost(module: nn.Module) -> Any:
    """The outermost `PreTrainedModel` in a module, which lies below the wrappers of adapters and
    above the encoder. None if there is none."""
    from transformers import PreTrainedModel

    return next((part for part in module.modules() if isinstance(part, PreTrainedModel)), None)


def num_positions(module: nn.Module) -> int | None:
    """The number of tokens that the model has positions for; None if its configuration sets no
    bound.

    Models like RoBERTa count positions from the padding index up, so that their 514 embeddings hold
    512 tokens. The embedding itself shows this, whatever the model is called.
    """
    for name, part in module.named_modules():
        if (
            isinstance(part, nn.Embedding)
            and name.endswith("position_embeddings")
            and part.padding_idx is not None
        ):
            return part.num_embeddings - part.padding_idx - 1
    for name in POSITIONS:
        number = getattr(module.config, name, None)
        if isinstance(number, int) and not isinstance(number, bool) and number > 0:
            return number
    return None
