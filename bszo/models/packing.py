"""Packing: the texts of a batch behind one another in few rows, so that no pass spends time on
padding, nor twice on what the options of an example have in common.

A model must be kept from looking across texts. There are two ways, and a trial says which of them
it takes (`bszo.models.traits`):

    positions  begin at 0 in each text, which transformers reads as the border of two texts
    mask       says of every two tokens whether one sees the other; so a beginning that texts share
               can stand in front of them once: an instruction in front of all examples, and a
               prompt in front of its options
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Literal

import torch
from torch import Tensor

from bszo.models.batch import Batch

Way = Literal["positions", "mask"]

# Tokens in a row of packed texts, about. Attention is paid for all pairs of a row, also across
# texts: a share of WIDTH / (6 x hidden size) of the rest of a pass.
WIDTH = 384
# And so many at most where a beginning that is shared makes wider rows worth while.
WIDEST = 2048


def room(common: int) -> int:
    """For how many tokens a row has room, beside `common` ones that all its texts begin with: the
    more there are, the more texts they are made for."""
    return max(WIDTH, min(2 * common, WIDEST))


def common_beginning(texts: Sequence[Sequence[int]]) -> int:
    """With how many tokens all texts begin alike; 0 if there is one text."""
    if len(texts) < 2:
        return 0
    columns = zip(*texts, strict=False)
    return sum(1 for _ in takewhile(lambda column: len({*column}) == 1, columns))


def texts_of(batch: Batch) -> list[list[int]]:
    """The tokens of each row, without padding."""
    lengths = batch.attention_mask.sum(1).tolist()
    return [row[:n] for row, n in zip(batch.input_ids.tolist(), lengths, strict=True)]


def in_few_rows(batch: Batch, way: Way, *, common: int = 0) -> Batch:
    """The same examples with hardly any padding, in as few rows as hold them at about WIDTH tokens
    each. Padding behind the last text of a row is seen by no text.

    Args:
        common: with so many tokens all texts begin alike; each row has them once, if `way` is a
            mask. 0: no two examples have a token in common, so that `owners` is true of all.
    """
    lengths = batch.attention_mask.sum(1).tolist()
    count = len(lengths)
    common = common if way == "mask" else 0
    trunks, shared = _trunks(batch) if way == "mask" else _unshared(count)
    # text i has tokens of its own from begins[i] on; the first of a row has the common ones, too
    begins = [max(common, s) for s in shared]
    sizes = [length - begin for length, begin in zip(lengths, begins, strict=True)]
    rows = _rows(sizes, trunks, room(common))
    width = common + max(sum(sizes[text] for text in row) for row in rows)
    row_of, start_of, first_of = torch.empty(3, count, dtype=torch.long)
    texts, positions, tokens = torch.zeros(3, len(rows), width, dtype=torch.long)
    for number, members in enumerate(rows):
        end = 0
        for text in members:
            begin = begins[text] if end else 0
            start, end = end, end + lengths[text] - begin
            row_of[text], start_of[text], first_of[text] = number, start - begin, members[0]
            texts[number, start:end] = text
            positions[number, start:end] = torch.arange(begin, lengths[text])
            tokens[number, start:end] = 1
        texts[number, end:] = members[-1]
        positions[number, end:] = torch.arange(width - end) % max(lengths)  # a model has no more
    trunk_of, num_shared = torch.tensor(trunks), torch.tensor(shared)
    read, columns = batch.rows.cpu(), batch.columns.cpu()
    read = torch.where(columns < num_shared[read], trunk_of[read], read)
    read = torch.where(columns < common, first_of[read], read)
    device = batch.input_ids.device
    ids = batch.input_ids.cpu()[texts, positions]
    mask = None
    if way == "mask":
        mask = _mask(texts, positions, trunk_of, num_shared, common).to(device)
    return replace(
        batch,
        input_ids=ids.to(device),
        attention_mask=tokens.to(device),
        owners=batch.owners[:, 0].cpu()[texts].to(device),
        rows=row_of[read].to(device),
        columns=(start_of[read] + columns).to(device),
        position_ids=positions.to(device),
        mask=mask,
    )


def _unshared(count: int) -> tuple[list[int], list[int]]:
    """What `_trunks` returns where no text shares anything."""
    return list(range(count)), [0] * count


def _trunks(batch: Batch) -> tuple[list[int], list[int]]:
    """For each text the one whose beginning it shares, the first of its example, and how many
    tokens of it; itself and 0 where it shares none."""
    texts, owners = texts_of(batch), batch.owners[:, 0].tolist()
    trunks, shared = _unshared(len(texts))
    firsts: dict[int, int] = {}
    for text, owner in enumerate(owners):
        if (first := firsts.setdefault(owner, text)) == text:
            continue
        if alike := common_beginning([texts[first], texts[text]]):
            trunks[text], shared[text] = first, alike
    return trunks, shared


def _rows(sizes: list[int], trunks: list[int], width: int) -> list[list[int]]:
    """The texts of each row, in order: the longest first, each into the shortest row so far, and
    those of one trunk together."""
    bundles: dict[int, list[int]] = {}
    for text, trunk in enumerate(trunks):
        bundles.setdefault(trunk, []).append(text)
    length = {trunk: sum(sizes[text] for text in texts) for trunk, texts in bundles.items()}
    width = max(width, *length.values())  # where one is longer, each row has room for as much
    count = max(1, min(math.ceil(sum(sizes) / width), len(bundles)))
    rows: list[list[int]] = [[] for _ in range(count)]
    filled = [0] * count
    for trunk in sorted(bundles, key=lambda trunk: -length[trunk]):
        shortest = filled.index(min(filled))
        rows[shortest] += bundles[trunk]
        filled[shortest] += length[trunk]
    return [sorted(row) for row in rows]


def _mask(
    texts: Tensor, positions: Tensor, trunk_of: Tensor, num_shared: Tensor, common: int
) -> Tensor:
    """Whether the second of two tokens of a row is seen by the first, (R, 1, T, T): it stands in
    front of it, or is it, and in its text, in the part of its trunk that it shares, or among the
    tokens that all texts have in common."""
    here, there, place = texts[:, :, None], texts[:, None, :], positions[:, None, :]
    in_trunk = (trunk_of[here] == there) & (place < num_shared[here])
    return ((here == there) | in_trunk | (place < common)).tril()[:, None]
