"""Traits of a model that its scores rely on, found by trying the model on a few tokens.

    causal    a later token moves no earlier logit; without that, an option would see itself
    padded    padding moves no score; without that, rows of one length share a batch
    packed    texts behind one another in one row move each other's scores by nothing, where each
              has positions of its own; with that, a batch needs no padding
    shortcut  how little of the output layer gives the logits that all of it gives

A name in a configuration says none of this reliably: an encoder loads as a causal model, and some
attention looks at padding whatever the mask says.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bszo.errors import ModelError, one_line
from bszo.models import head
from bszo.models.batch import Batch, collate
from bszo.models.encode import Encoded, OptionTokens
from bszo.models.module import num_positions

Shortcut = Literal["words", "positions", "none"]

NUM_TOKENS, NUM_CHANGED, NUM_PADDING = 12, 8, 4
# Shares of the logits' standard deviation: what rounding changes is less, and what another token or
# another bias changes is more.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


@dataclass(frozen=True)
class Traits:
    """The traits of one model.

    Attributes:
        padded: whether padding behind a row leaves its scores as they are.
        shortcut: how little of the output layer may be run. "words": only the rows of the words
            that count, at the positions that count. "positions": all rows at these positions.
            "none": all rows at all positions.
        packed: whether the texts of a training batch stand behind one another, in few rows. It is
            asked for, as `model.packed`, and found to leave the scores as they are.
    """

    padded: bool = True
    shortcut: Shortcut = "words"
    packed: bool = False


def inputs_of(batch: Batch, causal: bool) -> dict[str, Any]:
    """The keyword arguments of a forward pass over a batch.

    A causal model gets no attention mask. Its padding stands on the right, where no position that
    counts can see it, and the kernel of plain causal attention is faster.
    """
    more: dict[str, Any] = (
        {"use_cache": False} if causal else {"attention_mask": batch.attention_mask}
    )
    if batch.position_ids is not None:
        more["position_ids"] = batch.position_ids
    return {"input_ids": batch.input_ids, **more}


@torch.no_grad()
def find_traits(
    module: nn.Module,
    *,
    style: str,
    path: str,
    vocabulary: list[int],
    pad_id: int,
    packed: bool | None = False,
) -> Traits:
    """The traits of a module in evaluation mode; no generator is moved.

    Args:
        module: a language model of `transformers`.
        style: what it is loaded as, "masked" or "causal".
        path: of the model, for messages.
        vocabulary: ids of ordinary tokens.
        pad_id: of padding.
        packed: whether training batches are to be packed; None: where that leaves the scores as
            they are.

    Raises:
        ModelError: its forward pass fails, it is loaded as causal and is not, or it is to be packed
            and mixes texts that stand in one row.
    """
    causal = style == "causal"
    most = num_positions(module) or NUM_TOKENS + NUM_PADDING
    if most < NUM_TOKENS + NUM_PADDING or not vocabulary:
        _require_tried(path, packed)
        return Traits(padded=causal)
    device = next(module.parameters()).device
    drawn = torch.randint(
        len(vocabulary), (NUM_TOKENS,), generator=torch.Generator().manual_seed(0)
    )
    row = tuple(vocabulary[i] for i in drawn.tolist())
    read = tuple(OptionTokens(0, (NUM_TOKENS - 2,), (token,)) for token in row[:2])
    batch = collate([Encoded("0", 0, (row,), read, False)], pad_id=pad_id, device=device)
    with torch.random.fork_rng(devices=[]):
        try:
            whole = _logits(module, batch, causal)  # (1, T, V)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            raise ModelError(
                f"model {path}: it loads, but a forward pass of it fails: {one_line(error)}"
            ) from error
        if whole.shape[:2] != batch.input_ids.shape or not whole.isfinite().all():
            _require_tried(path, packed)
            return Traits(padded=causal)  # scoring names the example
        tolerance = TOLERANCE[next(module.parameters()).dtype] * whole.std().item()
        if causal and _looks_ahead(module, batch, whole, vocabulary, tolerance):
            raise ModelError(
                f"model {path}: loaded as causal, but its logits move when a later token changes,"
                " so that it sees the answer; model.kind=masked is for such a model (a decoder's"
                " config.json says is_decoder: true)"
            )
        padded = causal or _ignores_padding(module, batch, whole, pad_id, tolerance)
        apart = (
            causal
            and packed is not False
            and _keeps_apart(module, batch, whole, vocabulary, tolerance)
        )
        if packed and not apart:
            raise ModelError(
                f"model {path}: model.packed=true, but its scores move where texts stand in one"
                " row; model.packed=false is valid"
            )
        return Traits(padded, _shortcut(module, batch, whole, causal, tolerance), apart)


def _require_tried(path: str, packed: bool | None) -> None:
    if packed:
        raise ModelError(
            f"model {path}: model.packed=true, but it cannot be tried on a few tokens (too few"
            " positions, or logits that are not finite); model.packed=false is valid"
        )


def _logits(module: nn.Module, batch: Batch, causal: bool) -> Tensor:
    return module(**inputs_of(batch, causal)).logits.float()


def _looks_ahead(
    module: nn.Module, batch: Batch, whole: Tensor, vocabulary: list[int], tolerance: float
) -> bool:
    kept = NUM_TOKENS - NUM_CHANGED
    ids = torch.cat([batch.input_ids[:, :kept], _others(batch.input_ids, vocabulary)[:, kept:]], 1)
    other = module(input_ids=ids, use_cache=False).logits.float()
    return not _near(other[:, :kept], whole[:, :kept], tolerance)


def _others(ids: Tensor, vocabulary: list[int]) -> Tensor:
    """Another token of the vocabulary in the place of each, (1, T)."""
    places = {token: i for i, token in enumerate(vocabulary)}
    far = len(vocabulary) // 2
    moved = [vocabulary[(places[token] + far) % len(vocabulary)] for token in ids[0].tolist()]
    return torch.tensor([moved], device=ids.device)


def _ignores_padding(
    module: nn.Module, batch: Batch, whole: Tensor, pad_id: int, tolerance: float
) -> bool:
    ids = nn.functional.pad(batch.input_ids, (0, NUM_PADDING), value=pad_id)
    mask = nn.functional.pad(batch.attention_mask, (0, NUM_PADDING))
    try:
        padded = module(input_ids=ids, attention_mask=mask).logits.float()
    except RuntimeError:  # it takes rows of some lengths only
        return False
    return _near(padded[:, :NUM_TOKENS], whole, tolerance)


def _keeps_apart(
    module: nn.Module, batch: Batch, whole: Tensor, vocabulary: list[int], tolerance: float
) -> bool:
    """Whether the row's end, as a text of its own behind the row, has the logits that it has alone;
    and to the bit the same behind another row, where no experts share its tokens out anew: in 16
    bits a little of the other text would drown in the tolerance."""
    half = batch.input_ids[:, NUM_TOKENS // 2 :]
    alone = module(input_ids=half, use_cache=False).logits.float()
    lengths = (NUM_TOKENS, half.shape[1])
    positions = torch.cat([torch.arange(n, device=half.device) for n in lengths])[None]

    def behind(first: Tensor) -> Tensor:
        ids = torch.cat([first, half], 1)
        return module(input_ids=ids, position_ids=positions, use_cache=False).logits.float()

    try:
        both, other = behind(batch.input_ids), behind(_others(batch.input_ids, vocabulary))
    except torch.OutOfMemoryError:
        raise
    except Exception:  # it takes no positions, or none that begin anew
        return False
    shared_out = any("expert" in name for name, _ in module.named_modules())
    if not shared_out and not torch.equal(both[:, NUM_TOKENS:], other[:, NUM_TOKENS:]):
        return False
    # on average: the largest of so many roundings in 16 bits says little
    error = both - torch.cat([whole, alone], 1)
    return bool(error.square().mean().sqrt() <= tolerance)


def _shortcut(
    module: nn.Module, batch: Batch, whole: Tensor, causal: bool, tolerance: float
) -> Shortcut:
    """The largest saving that gives the same logits: a head may add a bias for each word outside
    its output layer, or normalise over all words."""
    assert batch.words is not None
    expected = whole[batch.rows.to(whole.device), batch.columns.to(whole.device)]  # (N, V)
    inputs = inputs_of(batch, causal)
    found: Shortcut = "none"
    with_words: tuple[tuple[Shortcut, Tensor | None], ...] = (
        ("positions", None),
        ("words", batch.words),
    )
    for name, words in with_words:
        try:
            logits, narrow = head.run(module, inputs, batch, words)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            return found
        wanted = expected[:, batch.words.to(expected.device)] if narrow else expected
        if not _near(logits.float(), wanted, tolerance):
            return found
        found = name
    return found


def _near(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return a.shape == b.shape and bool(((a - b.to(a.device)).abs() <= tolerance).all())
