"""Splitting of text into pieces, within which a byte-level BPE of a GGUF file merges.

A GGUF file names its splitting (`tokenizer.ggml.pre`) and does not hold it. Of a name that
transformers does not know, it makes GPT-2's splitting without a word, so that texts get other
tokens than the model was trained on: SmolLM2's two blanks before a digit become two tokens, where
they are one.

Source: the names and what they stand for are those of llama.cpp (`llama-vocab.cpp`, 2026).
"""

import json
import logging
from typing import Any

log = logging.getLogger(__name__)

# every digit is a piece of its own, the rest is split as GPT-2's
DIGITS = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")
AS_GPT2 = ("gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling")


def split_as_named(tokenizer: Any, name: str | None, file: str) -> str:
    """Give a tokenizer that transformers made of a GGUF file the splitting that the file names.

    A splitting that nobody here knows is left as GPT-2's, with a line that says so.

    Args:
        tokenizer: of transformers, with a backend of `tokenizers`.
        name: the file's `tokenizer.ggml.pre`; None where it has none.
        file: for the line.

    Returns:
        In words, how the tokenizer splits.
    """
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    backend = tokenizer.backend_tokenizer
    found = json.loads(backend.to_str())["pre_tokenizer"]
    if found is None or found["type"] != "ByteLevel":  # transformers knows it, or it is no such BPE
        return "as transformers has it"
    if name in AS_GPT2:
        return "as GPT-2"
    if name in DIGITS:
        as_gpt2 = ByteLevel(add_prefix_space=False, use_regex=True)
        backend.pre_tokenizer = Sequence([Digits(individual_digits=True), as_gpt2])
        return "each digit, else as GPT-2"
    log.warning(
        "%s: it splits text by rules called %r, which are not known here: it is split as GPT-2's,"
        " and tokens may differ from those that the model was trained on",
        file,
        name,
    )
    return f"as GPT-2, for want of the rules called {name!r}"
