"""The last hidden state of a model: what its scores are read from, and a linear probe reads too."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bszo.models.batch import Batch
from bszo.models.module import outermost


def body_of(module: nn.Module) -> Any:
    """The part of a model below its output layer; None where it has none of its own."""
    outer = outermost(module)
    body = getattr(outer, "base_model", None)
    return None if body is outer else body


@contextmanager
def last_states(body: Any) -> Iterator[list[Tensor]]:
    """While active, gathers the last hidden states of the body's passes, (R, T, H) each."""
    states: list[Tensor] = []
    # some models call the inner decoder alone; where both run, the outer one's output comes last
    parts = [part for part in (body, getattr(body, "decoder", None)) if part is not None]
    handles = [
        part.register_forward_hook(lambda _, args, output: states.append(output[0]))
        for part in parts
    ]
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def width_of(module: nn.Module, ids: Tensor) -> int | None:
    """The width of the last hidden state, as a pass over some tokens shows it; None if it shows no
    state. `ids` are (1, T).

    It may differ from the configuration's hidden_size, from which some models project down.
    """
    body = body_of(module)
    if body is None:
        return None
    with last_states(body) as states:
        outermost(module)(input_ids=ids, attention_mask=torch.ones_like(ids))
    seen = states[-1] if states else None
    return seen.shape[-1] if isinstance(seen, Tensor) and seen.ndim == 3 else None


def mean_over_tokens(at_positions: Tensor, batch: Batch) -> Tensor:
    """phi_o = mean_j h_j over the positions where option o's tokens are read, (B, O, H); 0 where an
    example has no such option. `at_positions` is h, (N, H)."""
    present = batch.present.to(at_positions.device)
    at_tokens = at_positions[batch.position.to(at_positions.device)]  # (B, O, L, H)
    total = torch.where(present[..., None], at_tokens, 0.0).sum(2)
    return total / present.sum(-1, keepdim=True).clamp(min=1)
