"""Traits of a model that its scores rely on, found by trying the model on a few tokens.

    causal    a later token moves no earlier logit; without that, an option would see itself
    padded    padding moves no score; without that, rows of one length share a batch
    packed    texts behind one another in one row move each other's scores by nothing, where
              positions or a mask keep them apart; with that, a batch needs no padding
    shortcut  how little of the output layer gives the logits that all of it gives

A name in a configuration says none of this reliably: an encoder loads as a causal model, and some
attention looks at padding whatever the mask says.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bszo.errors import ModelError, one_line
from bszo.models import head
from bszo.models.batch import Batch, collate
from bszo.models.encode import Encoded, OptionTokens
from bszo.models.module import num_positions
from bszo.models.packing import WIDTH, Way, in_few_rows

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
        packed: the ways of packing a batch (`bszo.models.packing`) that leave its scores as they
            are, the better one first; none where it is not asked for.
    """

    padded: bool = True
    shortcut: Shortcut = "words"
    packed: tuple[Way, ...] = ()


def inputs_of(module: nn.Module, batch: Batch, causal: bool) -> dict[str, Any]:
    """The keyword arguments of a forward pass over a batch.

    A causal model gets no attention mask, unless the batch has one of its own. Its padding stands
    on the right, where no position that counts can see it, and the kernel of plain causal attention
    is faster.
    """
    more: dict[str, Any] = (
        {"use_cache": False} if causal else {"attention_mask": batch.attention_mask}
    )
    if batch.mask is not None:  # what is added to the weights of attention
        dtype = next(p.dtype for p in module.parameters() if p.is_floating_point())
        hidden = torch.zeros(batch.mask.shape, dtype=dtype, device=batch.mask.device)
        more["attention_mask"] = hidden.masked_fill_(~batch.mask, torch.finfo(dtype).min)
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
    longest: int = 0,
) -> Traits:
    """The traits of a module in evaluation mode; no generator is moved.

    Args:
        module: a language model of `transformers`.
        style: what it is loaded as, "masked" or "causal".
        path: of the model, for messages.
        vocabulary: ids of ordinary tokens.
        pad_id: of padding.
        packed: whether batches are to be packed; None: where that leaves the scores as
            they are.
        longest: most tokens of a text, which no window of attention may cut where a mask packs.

    Raises:
        ModelError: its forward pass fails, it is loaded as causal and is not, or it is to be packed
            and mixes texts that stand in one row.
    """
    causal = style == "causal"
    most = num_positions(module) or NUM_TOKENS + NUM_PADDING
    if most < NUM_TOKENS + NUM_PADDING or len(vocabulary) < 2:
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
        ways: tuple[Way, ...] = ()
        if causal and packed is not False:
            ways = _ways_of_packing(module, row, pad_id, vocabulary, tolerance, longest)
        if packed and not ways:
            raise ModelError(
                f"model {path}: model.packed=true, but its scores move where texts stand in one"
                " row; model.packed=false is valid"
            )
        return Traits(padded, _shortcut(module, batch, whole, causal, tolerance), ways)


def _require_tried(path: str, packed: bool | None) -> None:
    if packed:
        raise ModelError(
            f"model {path}: model.packed=true, but it cannot be tried on a few tokens (too few"
            " positions, or logits that are not finite); model.packed=false is valid"
        )


def _logits(module: nn.Module, batch: Batch, causal: bool) -> Tensor:
    return module(**inputs_of(module, batch, causal)).logits.float()


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


def _ways_of_packing(
    module: nn.Module,
    row: tuple[int, ...],
    pad_id: int,
    vocabulary: list[int],
    tolerance: float,
    longest: int,
) -> tuple[Way, ...]:
    ways: tuple[Way, ...] = ("positions", "mask")
    if longest > _window(module):
        ways = ("positions",)  # a mask of one's own takes the place of a window
    if 2 * max(WIDTH, longest) > (columns := _columns(module)):
        ways = ()  # a row may be wider
    elif columns < math.inf:
        ways = ("positions",)  # what texts share has no bound on its row
    return tuple(
        way for way in ways if _keeps_apart(module, row, pad_id, vocabulary, tolerance, way)
    )


def _window(module: nn.Module) -> float:
    """How far a token sees back, where a layer bounds it."""
    config = _text_config(module)
    if hasattr(config, "window_size"):  # GPT-Neo's layers count columns, whatever a mask says
        return 0
    known = (getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size"))
    return min((window for window in known if isinstance(window, int)), default=math.inf)


def _text_config(module: nn.Module) -> Any:
    """The configuration of the part that reads text."""
    config: Any = module.config
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def _columns(module: nn.Module) -> float:
    """How wide a row may be, where layers count its columns and not the positions in a text."""
    config = _text_config(module)
    if hasattr(config, "window_size"):  # GPT-Neo's have a table of them
        return num_positions(module) or math.inf
    # Llama 4 makes attention sharper with every so many
    tuned = getattr(config, "attn_temperature_tuning", False)
    return getattr(config, "floor_scale", math.inf) if tuned else math.inf


def _keeps_apart(
    module: nn.Module,
    row: tuple[int, ...],
    pad_id: int,
    vocabulary: list[int],
    tolerance: float,
    way: Way,
) -> bool:
    """Whether texts that are packed have the logits that they have alone; and the last of them to
    the bit the same behind others, where no experts share its tokens out anew: in 16 bits a little
    of the other texts would drown in the tolerance.

    The first two are of one example and have a beginning alike, which a mask lets them share; the
    third is the end of the first.
    """
    device = next(module.parameters()).device
    half = len(row) // 2
    far = tuple(_others(torch.tensor([row]), vocabulary)[0].tolist())

    def packed(first: tuple[int, ...], second: tuple[int, ...]) -> Batch:
        branch = (*first[:half], *second[half:])
        texts = ((first, branch), (row[half:],))
        made = [
            Encoded(str(i), 0, rows, (OptionTokens(0, (0,), (row[0],)),), False)
            for i, rows in enumerate(texts)
        ]
        return collate(made, pad_id=pad_id, device=device)

    batch = packed(row, far)
    alone = [
        module(input_ids=ids[None, :length], use_cache=False).logits[0].float()
        for ids, length in zip(batch.input_ids, batch.attention_mask.sum(1), strict=True)
    ]
    if way == "mask":
        alone[1] = alone[1][half:]
    try:
        both, other = (
            _logits(module, in_few_rows(made, way), causal=True)[0]
            for made in (batch, packed(far, row))
        )
    except torch.OutOfMemoryError:
        raise
    except Exception:  # it takes no positions, or no such mask
        return False
    shared_out = any("expert" in name for name, _ in module.named_modules())
    if not shared_out and not torch.equal(both[-half:], other[-half:]):
        return False
    # on average: the largest of so many roundings in 16 bits says little
    error = both - torch.cat(alone)
    return bool(error.square().mean().sqrt() <= tolerance)


def _shortcut(
    module: nn.Module, batch: Batch, whole: Tensor, causal: bool, tolerance: float
) -> Shortcut:
    """The largest saving that gives the same logits: a head may add a bias for each word outside
    its output layer, or normalise over all words."""
    assert batch.words is not None
    expected = whole[batch.rows.to(whole.device), batch.columns.to(whole.device)]  # (N, V)
    inputs = inputs_of(module, batch, causal)
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
