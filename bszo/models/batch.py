"""Batch of encoded examples: padded rows, and indices that say where in the logits the tokens of
each option are read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bszo.errors import ModelError
from bszo.models.encode import Encoded

ABSENT = -1  # stands where an option has no token; no token has this id


@dataclass(frozen=True)
class Batch:
    """B examples with up to O options of up to L tokens, read at N positions of R rows padded to T.

    Attributes:
        input_ids: (R, T) token ids, padded on the right.
        attention_mask: (R, T) 1 where a token stands, 0 where padding does.
        rows, columns: (N,) each, the positions whose logits are needed; before packing none twice.
        position: (B, O, L) index into the N positions for each token of each option.
        tokens: (B, O, L) the option's token ids.
        present: (B, O, L) False where an option is shorter than L or an example has fewer options.
        labels: (B,) index of the right option.
        words: (W,) the tokens of all options, in order, none twice, where each option is one token
            and an example's options are read at one position; else None.
        owners: (R, T) the example that each token is of, from 0 to B - 1.
        position_ids: (R, T) where each token stands in its text, where that is not its column;
            else None.
        mask: (R, 1, T, T) whether a token sees another; None where it sees all before it in its
            text.
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
    owners: Tensor
    position_ids: Tensor | None = None
    mask: Tensor | None = None


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
    counts = torch.tensor([len(example.rows) for example in encoded])
    owners = torch.arange(len(encoded)).repeat_interleave(counts)[:, None].expand_as(input_ids)
    return Batch(*(part.to(device) for part in parts), words=words, owners=owners.to(device))


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
                owners=torch.arange(len(examples), device=examples.device)[:, None].expand(
                    -1, length
                ),
            ),
        )


def repeated(batch: Batch, count: int) -> Batch:
    """So many copies of a batch behind one another, as one batch."""

    def copies(part: Tensor, step: int = 0) -> Tensor:
        """The part so many times, each time greater by `step`."""
        return torch.cat([part + i * step for i in range(count)])

    assert batch.position_ids is None, "copies first, then packed"
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
        owners=copies(batch.owners, len(batch.labels)),
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


def buckets(encoded: Sequence[Encoded], max_tokens: int, common: int = 0) -> Iterator[list[int]]:
    """Indices of examples of like length: at most `max_tokens` padded positions, beside the
    `common` ones that all texts share, at least one example each."""
    # a text that is no more than the common ones is still read, and counts
    widths = [max(1, e.length - common) for e in encoded]
    rows = [len(e.rows) for e in encoded]
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
