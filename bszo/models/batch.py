"""Batch of encoded examples: padded rows, and indices that say where in the logits the tokens of
each option are read."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bszo.errors import ModelError
from bszo.models.encode import Encoded

ABSENT = -1  # stands where an option has no token; no token has this id
# Tokens in a row of packed texts, about. Attention is paid for all pairs of a row, also across
# texts: a share of width / (6 x hidden size) of the rest of a pass.
PACKED_WIDTH = 384


@dataclass(frozen=True)
class Batch:
    """B examples with up to O options of up to L tokens, read at N positions of R rows padded to T.

    Attributes:
        input_ids: (R, T) token ids, padded on the right.
        attention_mask: (R, T) 1 where a token stands, 0 where padding does.
        rows, columns: (N,) each, the positions whose logits are needed, none twice.
        position: (B, O, L) index into the N positions for each token of each option.
        tokens: (B, O, L) the option's token ids.
        present: (B, O, L) False where an option is shorter than L or an example has fewer options.
        labels: (B,) index of the right option.
        words: (W,) the tokens of all options, in order, none twice, where each option is one token
            and an example's options are read at one position; else None.
        position_ids: (R, T) where each token stands in its text, where that is not its column;
            else None.
        texts: (R, T) which row of the batch before it was packed each token is of; None where it is
            its own.
    """

    input_ids: Tensor
    attention_mask: Tensor
    rows: Tensor
    columns: Tensor
    position: Tensor
    tokens: Tensor
    present: Tensor
    labels: Tensor
    words: Tensor | None
    position_ids: Tensor | None = None
    texts: Tensor | None = None


def collate(
    encoded: Sequence[Encoded], *, pad_id: int, device: torch.device | str = "cpu"
) -> Batch:
    """One Batch of the examples, in their order, on `device`; ModelError if there are none."""
    if not encoded:
        raise ModelError("a batch needs at least one example, got none")
    rows = [row for example in encoded for row in example.rows]
    lengths = torch.tensor([len(row) for row in rows])
    input_ids = _padded(rows, pad_id)
    attention_mask = (torch.arange(input_ids.shape[1]) < lengths[:, None]).long()

    num_options = max(len(example.options) for example in encoded)
    none = [()] * num_options
    places: dict[tuple[int, int], int] = {}
    used: list[Sequence[int]] = []  # (B O) lists, one an option
    tokens: list[Sequence[int]] = []
    first_row = 0
    for example in encoded:
        for option in example.options:
            used.append(
                [
                    places.setdefault((first_row + option.row, c), len(places))
                    for c in option.columns
                ]
            )
            tokens.append(option.tokens)
        missing = num_options - len(example.options)
        used += none[:missing]
        tokens += none[:missing]
        first_row += len(example.rows)
    shape = (len(encoded), num_options, -1)
    padded = _padded(tokens, ABSENT).view(shape)
    position, present = _padded(used, 0).view(shape), padded != ABSENT
    where = torch.tensor(list(places)).T.contiguous()  # (2, N)
    labels = torch.tensor([example.label for example in encoded])
    parts = (
        input_ids,
        attention_mask,
        where[0],
        where[1],
        position,
        padded.clamp(min=0),
        present,
        labels,
    )
    unique = _words(encoded)
    words = None if unique is None else torch.tensor(unique, device=device)
    return Batch(*(part.to(device) for part in parts), words=words)


def by_length(batch: Batch) -> Iterator[tuple[Tensor, Batch]]:
    """Batches without padding, each with the indices of its examples in this one.

    Every example must be one row, as those of masked models are.
    """
    lengths = batch.attention_mask.sum(1)
    for length in lengths.unique().tolist():
        examples = (lengths == length).nonzero()[:, 0]
        held = torch.isin(batch.rows, examples)  # (N,) the positions in these rows
        yield (
            examples,
            replace(
                batch,
                input_ids=batch.input_ids[examples, :length],
                attention_mask=batch.attention_mask[examples, :length],
                rows=torch.searchsorted(examples, batch.rows[held]),
                columns=batch.columns[held],
                # the entry of an option that an example does not have may point anywhere
                position=(held.cumsum(0) - 1)[batch.position[examples]].clamp(min=0),
                tokens=batch.tokens[examples],
                present=batch.present[examples],
                labels=batch.labels[examples],
            ),
        )


def repeated(batch: Batch, count: int) -> Batch:
    """So many copies of a batch behind one another, as one batch."""

    def copies(part: Tensor, step: int = 0) -> Tensor:
        """The part so many times, each time greater by `step`."""
        return torch.cat([part + i * step for i in range(count)])

    assert batch.texts is None, "copies first, then packed"
    return replace(
        batch,
        input_ids=copies(batch.input_ids),
        attention_mask=copies(batch.attention_mask),
        rows=copies(batch.rows, len(batch.input_ids)),
        columns=copies(batch.columns),
        position=copies(batch.position, len(batch.rows)),
        tokens=copies(batch.tokens),
        present=torch.cat([batch.present] * count),
        labels=copies(batch.labels),
    )


def in_few_rows(batch: Batch) -> Batch:
    """The same examples with hardly any padding: their texts stand behind one another, in as few
    rows as hold them at about PACKED_WIDTH tokens each.

    Positions begin at 0 in each text, which tells a model of `transformers` that attention must not
    cross from one into the next. Padding behind the last text of a row is as a text of its own.
    """
    lengths = batch.attention_mask.sum(1).tolist()
    count = min(math.ceil(sum(lengths) / PACKED_WIDTH), len(lengths))
    held: list[list[int]] = [[] for _ in range(count)]  # the texts of each row
    filled = [0] * count
    for text in sorted(range(len(lengths)), key=lambda text: -lengths[text]):
        shortest = filled.index(min(filled))
        held[shortest].append(text)
        filled[shortest] += lengths[text]
    row_of, starts = torch.empty(2, len(lengths), dtype=torch.long)
    texts, positions = torch.zeros(2, count, max(filled), dtype=torch.long)
    tokens = torch.zeros_like(texts)
    for row, members in enumerate(held):
        start = 0
        for text in sorted(members):
            end = start + lengths[text]
            row_of[text], starts[text] = row, start
            texts[row, start:end] = text
            positions[row, start:end] = torch.arange(lengths[text])
            tokens[row, start:end] = 1
            start = end
        texts[row, start:] = texts[row, start - 1]
        positions[row, start:] = torch.arange(max(filled) - start)
    device = batch.input_ids.device
    row_of, starts, texts, positions, tokens = (
        part.to(device) for part in (row_of, starts, texts, positions, tokens)
    )
    return replace(
        batch,
        input_ids=batch.input_ids[texts, positions.clamp(max=batch.input_ids.shape[1] - 1)],
        attention_mask=tokens,
        rows=row_of[batch.rows],
        columns=starts[batch.rows] + batch.columns,
        position_ids=positions,
        texts=texts,
    )


def _padded(rows: Sequence[Sequence[int]], pad: int) -> Tensor:
    """(R, T) of R rows of up to T integers."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows], dtype=torch.long)


def _words(encoded: Sequence[Encoded]) -> list[int] | None:
    for example in encoded:
        places = {(option.row, option.columns) for option in example.options}
        if len(places) > 1 or any(len(option.tokens) > 1 for option in example.options):
            return None
    return sorted({option.tokens[0] for example in encoded for option in example.options})


def buckets(encoded: Sequence[Encoded], max_tokens: int) -> Iterator[list[int]]:
    """Indices of examples of like length: at most `max_tokens` padded positions, at least one
    example each."""
    widths, rows = [e.length for e in encoded], [len(e.rows) for e in encoded]
    return packed(widths, rows, max_tokens)


def packed(widths: Sequence[int], rows: Sequence[int], max_tokens: int) -> Iterator[list[int]]:
    """Indices of things that are so many tokens wide and take so many rows, at most `max_tokens`
    padded positions together, at least one thing each.

    The widest come first: if memory does not suffice, that shows at once.
    """
    if max_tokens < 1:
        raise ModelError(f"max_tokens={max_tokens}: must be at least 1")
    order = sorted(range(len(widths)), key=lambda i: widths[i], reverse=True)
    bucket: list[int] = []
    num_rows = width = 0
    for i in order:
        if bucket and (num_rows + rows[i]) * width > max_tokens:
            yield bucket
            bucket, num_rows = [], 0
        if not bucket:
            width = widths[i]
        bucket.append(i)
        num_rows += rows[i]
    if bucket:
        yield bucket
