"""Head: a language model's output layer, which is run only where its logits are needed.

With 50,000 words the output layer is a third of OPT-125M's arithmetic and parameters. The scores of
a batch need it at N positions only, and a choice among options of one token each needs only the W
rows of these words.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from bszo.models.batch import Batch
from bszo.models.module import outermost


class _Words(nn.Module):
    """h W[words]^T + b[words], in place of the full output layer, whose hooks are not called.

    An embedding looks the rows up, so that an engine perturbs no other rows of W. The engine of
    directions of each example's own reads `words`, `weight` and `bias`.
    """

    def __init__(self, full: nn.Linear, words: Tensor) -> None:
        super().__init__()
        self.words, self.bias = words.to(full.weight.device), full.bias
        # no values are drawn for it, which would take time
        self.rows = nn.Embedding.from_pretrained(full.weight)
        # the parameter itself: an engine that perturbs it knows it by its identity
        self.rows.weight = full.weight

    @property
    def weight(self) -> Tensor:
        """The full layer's weight: some models ask for its type."""
        return self.rows.weight

    def forward(self, hidden: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias[self.words]
        return F.linear(hidden.to(self.words.device), self.rows(self.words), bias)


def run(
    module: nn.Module, inputs: dict[str, Any], batch: Batch, words: Tensor | None
) -> tuple[Tensor, bool]:
    """The logits at the batch's N positions, in the model's dtype, and whether they are those of
    the words alone: (N, V) and False, or (N, W) and True.

    Args:
        module: an LM of `transformers`, plain or wrapped by adapters.
        inputs: its keyword arguments.
        batch: says at which positions.
        words: (W,) ids of the tokens whose logits are needed. None asks for all V; all V come as
            well, with False, where the output layer is more than one plain matrix.
    """
    with _only(module, batch, words) as (gathered, narrow):
        logits = module(**inputs).logits
    return (logits.squeeze(0) if gathered else at_positions(logits, batch)), narrow


@contextmanager
def _only(
    module: nn.Module, batch: Batch, words: Tensor | None
) -> Iterator[tuple[list[bool], bool]]:
    """While active, the head sees states (1, N, H) instead of (R, T, H), and gives logits of the
    words alone where it can.

    It yields a list, which has an entry as soon as the head has run on the N gathered states, and
    whether the logits are those of the words alone.
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
    """The child of the LM that holds the output layer (`lm_head`, or BERT's `cls`), the module that
    owns the layer, and the layer's name in it."""
    model = outermost(module)
    layer = model.get_output_embeddings() if model is not None else None
    if model is None or layer is None:
        return None
    # from the end, where the head stands, so that the body is not searched
    for child_name, child in reversed(list(model.named_children())):
        if child is layer:
            return child, model, child_name
        for part in child.modules():
            for name, candidate in part.named_children():
                if candidate is layer:
                    return child, part, name
    return None


def _plain(layer: nn.Module | None, parent: nn.Module) -> bool:
    """Whether the layer is a matrix product and nothing more.

    A layer that owns a bias is one only if its parent owns the same bias, as BERT's head does.
    """
    return (
        type(layer) is nn.Linear
        # accelerate wraps the forward either to move the input, which `_Words` does too, or to load
        # weights that are on meta until then
        and ("forward" not in vars(layer) or hasattr(layer, "_hf_hook"))
        # quantisers and weight normalisation put something else in the parameter's place
        and isinstance(layer._parameters.get("weight"), nn.Parameter)
        and not layer.weight.is_meta
        and (layer.bias is None or any(p is layer.bias for p in parent._parameters.values()))
    )


def at_positions(values: Tensor, batch: Batch) -> Tensor:
    """(N, H): `values`, (R, T + v, H), at the batch's N positions, behind the v virtual tokens of a
    prompt adapter."""
    virtual = values.shape[1] - batch.input_ids.shape[1]
    return values[batch.rows.to(values.device), batch.columns.to(values.device) + virtual]  # (N, H)
