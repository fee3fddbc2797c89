"""A language model's output layer, run only at the positions and, where that suffices, only for the
words that count.

Over 50,000 words the output layer is a third of OPT-125M's arithmetic and parameters; of all that,
the scores of a batch need N positions, and a choice among one-token options the rows of W words.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from bszo.models.batch import Batch
from bszo.models.module import outermost


class _Words(nn.Module):
    """h W[words]^T + b[words]. The rows come through an embedding, so that a perturbation of W
    costs those rows only.

    Hooks of the full layer are not called.
    """

    def __init__(self, full: nn.Linear, words: Tensor) -> None:
        super().__init__()
        self.words, self.bias = words.to(full.weight.device), full.bias
        # draws no values, which on any device takes its time
        self.rows = nn.Embedding.from_pretrained(full.weight)
        # the parameter itself: an engine that perturbs it knows it by its identity
        self.rows.weight = full.weight

    @property
    def weight(self) -> Tensor:
        """The full layer's, of which some models ask the type."""
        return self.rows.weight

    def forward(self, hidden: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias[self.words]
        return F.linear(hidden.to(self.words.device), self.rows(self.words), bias)


def run(
    module: nn.Module, inputs: dict[str, Any], batch: Batch, words: Tensor | None
) -> tuple[Tensor, bool]:
    """Logits (N, V) at the batch's N positions in the model's dtype, or those of the words alone,
    (N, W), and True.

    Args:
        module: an LM of `transformers`, plain or wrapped by adapters.
        inputs: its keyword arguments.
        batch: says at which positions.
        words: (W,) token ids; None, and an output layer that is more than one plain matrix, give
            all.
    """
    with _only(module, batch, words) as (gathered, narrow):
        logits = module(**inputs).logits
    return (logits.squeeze(0) if gathered else at_positions(logits, batch)), narrow


@contextmanager
def _only(
    module: nn.Module, batch: Batch, words: Tensor | None
) -> Iterator[tuple[list[bool], bool]]:
    """While active, the head sees (1, N, H) instead of (R, T, H) and answers for the words alone.

    Yields a list that is non-empty once the head has run on gathered states, and whether there are
    only the words.
    """
    gathered: list[bool] = []

    def gather(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not args or not isinstance(args[0], Tensor) or args[0].dim() != 3:
            return None
        gathered.append(True)
        return (at_positions(args[0], batch).unsqueeze(0), *args[1:]), kwargs

    place = _place(module)
    if place is None:
        yield gathered, False
        return
    head, parent, name = place
    full = parent._modules[name]
    narrow = words is not None and _plain(full, parent)
    if narrow:
        parent._modules[name] = _Words(full, words)  # type: ignore[arg-type]
        head = parent._modules[name] if head is full else head
    handle = head.register_forward_pre_hook(gather, with_kwargs=True)  # type: ignore[union-attr]
    try:
        yield gathered, narrow
    finally:
        handle.remove()
        parent._modules[name] = full


def _place(module: nn.Module) -> tuple[nn.Module, nn.Module, str] | None:
    """The LM's direct child that holds the output layer (`lm_head`, BERT's `cls`); the layer's
    parent and name."""
    model = outermost(module)
    layer = model.get_output_embeddings() if model is not None else None
    if model is None or layer is None:
        return None
    # the head is the last: no walk through the body
    for child_name, child in reversed(list(model.named_children())):
        if child is layer:
            return child, model, child_name
        for part in child.modules():
            for name, candidate in part.named_children():
                if candidate is layer:
                    return child, part, name
    return None


def _plain(layer: nn.Module | None, parent: nn.Module) -> bool:
    """A matrix product and no more, whose bias, if any, its parent owns too: it runs around it, the
    layer does not."""
    return (
        type(layer) is nn.Linear
        # accelerate wraps it to move its input, as `_Words` does, or to load weights, which are on
        # meta till then
        and ("forward" not in vars(layer) or hasattr(layer, "_hf_hook"))
        # quantisers and weight normalisation replace it
        and isinstance(layer._parameters.get("weight"), nn.Parameter)
        and not layer.weight.is_meta
        and (layer.bias is None or any(p is layer.bias for p in parent._parameters.values()))
    )


def at_positions(values: Tensor, batch: Batch) -> Tensor:
    """The batch's N positions of `values` (R, T + v, H), v virtual tokens of a prompt adapter in
    front."""
    virtual = values.shape[1] - batch.input_ids.shape[1]
    return values[batch.rows.to(values.device), batch.columns.to(values.device) + virtual]  # (N, H)
