"""Encoding for masked language models: label words are read at a mask."""

from collections.abc import Sequence
from typing import Any

from bszo.errors import ModelError
from bszo.models.encode import Encoded, OptionTokens, Piece, check_options, tokenise
from bszo.tasks import MASK, Example


class MaskedEncoder:
    """One row an example; every option is one token, read at the mask.

    An option is tokenised as written: a mask token that takes the blank before it (RoBERTa's)
    leaves it to the option's own leading blank whether " Yes" or "Yes" is meant.

    Args:
        tokenizer: a fast tokenizer with a mask token.
        limit: most tokens of a row, special tokens included; of a longer row the longer side of the
            mask is cut, the left one at its beginning, the right one at its end.

    Raises:
        ModelError: no mask token.
    """

    def __init__(self, tokenizer: Any, limit: int) -> None:
        if tokenizer.mask_token is None:
            raise ModelError(
                "the tokenizer has no mask token, which a masked model needs (mask_token in"
                " tokenizer_config.json); a causal model loads with model.kind=causal"
            )
        self.tokenizer = tokenizer
        self.mask, self.mask_id = tokenizer.mask_token, tokenizer.mask_token_id
        self.limit = limit

    def __call__(self, examples: Sequence[Example]) -> list[Encoded]:
        """Encode examples; raises ModelError naming the example or option that cannot be scored."""
        for example in examples:
            check_options(example)
            if (count := example.prompt.count(MASK)) != 1:
                raise ModelError(
                    f"example {example.id}: its text holds {MASK} {count} times, it must be once"
                )
        words = self._words(sorted({option for example in examples for option in example.options}))
        texts = [example.prompt.replace(MASK, self.mask) for example in examples]
        pieces = tokenise(self.tokenizer, texts)
        return [
            self._encode(example, piece, words)
            for example, piece in zip(examples, pieces, strict=True)
        ]

    def _words(self, options: list[str]) -> dict[str, int]:
        """The token of each option, which has exactly one in a masked model."""
        words = {}
        for option in options:
            ids = self.tokenizer.encode(option, add_special_tokens=False)
            if len(ids) != 1 or ids[0] == self.tokenizer.unk_token_id:
                tokens = self.tokenizer.convert_ids_to_tokens(ids)
                raise ModelError(
                    f"option {option!r}: a masked model needs it to be one token, it is {tokens}"
                )
            words[option] = ids[0]
        return words

    def _encode(self, example: Example, piece: Piece, words: dict[str, int]) -> Encoded:
        tokens = [words[option] for option in example.options]
        if len(set(tokens)) < len(tokens):
            raise ModelError(
                f"example {example.id}: two of the options {example.options} are the same token"
            )
        at = self._mask_position(example, piece)
        left, right = at - piece.text.start, piece.text.stop - at - 1  # tokens on each side
        room = self.limit - (len(piece.ids) - left - right)
        if room < 0:
            raise ModelError(
                f"example {example.id}: at most {self.limit} tokens leave no room for the mask"
            )
        keep_left = min(left, max(room // 2, room - right))
        keep_right = min(right, room - keep_left)
        start, end = piece.ids[: piece.text.start], piece.ids[piece.text.stop :]
        row = (*start, *piece.ids[at - keep_left : at + 1 + keep_right], *end)
        options = tuple(OptionTokens(0, (len(start) + keep_left,), (token,)) for token in tokens)
        return Encoded(
            example.id, example.label, (row,), options, truncated=len(row) < len(piece.ids)
        )

    def _mask_position(self, example: Example, piece: Piece) -> int:
        """The token of the prompt's own gap; a text may happen to hold the tokenizer's mask token,
        too."""
        behind = example.prompt.index(MASK) + len(self.mask)
        for t, (token, end) in enumerate(zip(piece.ids, piece.ends, strict=True)):
            if token == self.mask_id and end >= behind:
                return t
        raise ModelError(f"example {example.id}: the tokenizer makes no mask token of {self.mask}")
