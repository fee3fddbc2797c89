"""Encoding for causal language models: options are read behind a prompt.

An option's place is known by construction: prompt and option are one string, tokenised once, and
the option is the tokens that end behind the prompt's last character. Tokenising the prompt by
itself and counting would be off by one wherever the tokenizer merges across the border.
"""

from collections.abc import Sequence
from typing import Any

from bszo.errors import ModelError
from bszo.models.encode import Encoded, OptionTokens, Piece, check_options, tokenise
from bszo.tasks import Example

Row = tuple[int, ...]


class CausalEncoder:
    """Rows of prompt + option; an option's tokens are read one position to their left.

    Args:
        tokenizer: a fast tokenizer (character offsets are needed).
        limit: most tokens of a prompt and an option together; a longer prompt loses its beginning,
            the same part for every option.
    """

    def __init__(self, tokenizer: Any, limit: int) -> None:
        self.tokenizer = tokenizer
        self.limit = limit

    def __call__(self, examples: Sequence[Example]) -> list[Encoded]:
        """Encode examples; raises ModelError naming the example and option that cannot be
        scored."""
        for example in examples:
            check_options(example)
        texts = [example.prompt + option for example in examples for option in example.options]
        pieces = tokenise(self.tokenizer, texts)
        return [
            self._encode(example, [next(pieces) for _ in example.options]) for example in examples
        ]

    def _encode(self, example: Example, pieces: list[Piece]) -> Encoded:
        spans = [
            _option_span(example, option, p)
            for option, p in zip(example.options, pieces, strict=True)
        ]
        cut = max(0, max(last for _, last in spans) - self.limit)
        keep = pieces[0].text.start  # what the tokenizer puts in front stays
        if min(first for first, _ in spans) - cut < max(keep, 1):
            if not cut:
                raise ModelError(
                    f"example {example.id}: nothing stands before its options to read their first"
                    " token from, and the tokenizer puts nothing in front; a prompt is needed"
                )
            longest = max(example.options, key=len)
            raise ModelError(
                f"example {example.id}: no token is left before its options to read them from: at"
                f" most {self.limit} tokens are allowed, the longest option is {longest!r}"
            )
        inputs: list[Row] = []
        for piece, (_, last) in zip(pieces, spans, strict=True):
            # without the last token, which is scored and from which nothing is read
            inputs.append((*piece.ids[:keep], *piece.ids[keep + cut : last - 1]))
        rows = _shared_rows(inputs)
        options = []
        for piece, tokens, (first, last) in zip(pieces, inputs, spans, strict=True):
            row = next(r for r, candidate in enumerate(rows) if candidate[: len(tokens)] == tokens)
            columns = tuple(range(first - cut - 1, len(tokens)))
            options.append(OptionTokens(row, columns, tuple(piece.ids[first:last])))
        for i, one in enumerate(options):
            if one in options[:i]:
                first, second = example.options[options.index(one)], example.options[i]
                raise ModelError(
                    f"example {example.id}: its options {first!r} and {second!r} are the same"
                    f" tokens to this tokenizer ({self.tokenizer.decode(one.tokens)!r}), so that"
                    " nothing tells them apart"
                )
        return Encoded(example.id, example.label, tuple(rows), tuple(options), truncated=cut > 0)


def _option_span(example: Example, option: str, piece: Piece) -> tuple[int, int]:
    """The option's first token and the one after its last; a token across the border is the
    option's."""
    behind = [t for t, end in enumerate(piece.ends) if end > len(example.prompt)]
    if not behind:
        raise ModelError(f"example {example.id}: the tokenizer makes no token of option {option!r}")
    return behind[0], behind[-1] + 1


def _shared_rows(inputs: Sequence[Row]) -> list[Row]:
    """The fewest rows that begin with every input.

    What stands right of a position cannot change its logits, so all single-token options of a
    prompt share one row, and ride on a longer option's row where there is one.
    """
    rows: list[Row] = []
    for tokens in sorted(inputs, key=len, reverse=True):
        if not any(row[: len(tokens)] == tokens for row in rows):
            rows.append(tokens)
    return rows
