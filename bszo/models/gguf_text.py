"""Text of a GGUF file's model: the tokens that it becomes, as the file says.

A GGUF file names the rules by which a byte-level BPE splits text into pieces, within which it
merges (`tokenizer.ggml.pre`), and does not hold them. Of a name that transformers does not know, it
makes GPT-2's splitting without a word, so that texts get other tokens than the model was trained
on: SmolLM2's two blanks before a digit become two tokens, where they are one. Llama 3's name stands
for more: a token in front of every text, unless the file says otherwise, and that a piece which is
a token is not merged from its bytes. And where the file has no unknown token, transformers adds
GPT-2's to its vocabulary, for which the model has no row.

Source: the names and what they stand for are those of llama.cpp (`llama-vocab.cpp`, 2026).
"""

import json
import logging
from collections.abc import Mapping
from typing import Any

log = logging.getLogger(__name__)

# every digit is a piece of its own, the rest is split as GPT-2's
DIGITS = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")
# a token stands in front, and whole pieces are tokens
AS_LLAMA3 = (
    *("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"),
    "tekken",
)
AS_GPT2 = ("gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling")


def settle_text(tokenizer: Any, metadata: Mapping[str, Any], num_tokens: int, file: str) -> str:
    """Have a tokenizer that transformers made of a GGUF file make the tokens that the file says.

    Args:
        tokenizer: of transformers, with a backend of `tokenizers`.
        metadata: the file's header.
        num_tokens: how many it has.
        file: its name, for lines.

    Returns:
        In words, how the tokenizer splits.
    """
    _drop_others(tokenizer, num_tokens)
    name = metadata.get("tokenizer.ggml.pre")
    splitting = split_as_named(tokenizer, name, file)
    if name in AS_LLAMA3 and metadata.get("tokenizer.ggml.model") == "gpt2":
        tokenizer.backend_tokenizer.model.ignore_merges = True
        if metadata.get("tokenizer.ggml.add_bos_token") is None and tokenizer.bos_token:
            tokenizer.add_bos_token = True
            splitting += f"; {tokenizer.bos_token} stands in front"
    return splitting


def _drop_others(tokenizer: Any, num_tokens: int) -> None:
    """Take from a tokenizer the tokens that were added behind the file's."""
    from tokenizers import Tokenizer

    content = json.loads(tokenizer.backend_tokenizer.to_str())
    others = {t["content"] for t in content["added_tokens"] if t["id"] >= num_tokens}
    if not (num_tokens and others):
        return
    content["added_tokens"] = [t for t in content["added_tokens"] if t["content"] not in others]
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(content))
    for role in ("bos_token", "eos_token", "unk_token", "pad_token"):
        if getattr(tokenizer, role, None) in others:
            setattr(tokenizer, role, None)


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
