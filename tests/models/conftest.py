"""Tiny models of six architectures with random weights, made here: these tests need no file from
outside."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    PreTrainedTokenizerFast,
)

TEXT = [
    "the movie was great and the story was terrible . It was great , it was terrible .",
    'Does this mean that "the man is old" is true? Yes or No?\nYes',
    (
        "Suppose the old man saw a film. Can we infer that it was good? Yes, No, or Maybe?\nNo"
        " Maybe Yes No"
    ),
    "The man was tired so he went home because the film was long. Yes No Maybe",
] * 3
CAUSAL, MASKED = ("opt", "llama", "mistral"), ("roberta", "bert")
TRANSPOSED = "gpt2"  # a causal one whose layers answer x W + b
NUM_POSITIONS = 64
SIZE = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32}
SPECIALS = ["<s>", "<pad>", "</s>", "<unk>"]


def opt_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE as GPT-2's, `</s>` in front."""
    core = _byte_level()
    core.post_processor = processors.TemplateProcessing(
        single="</s> $A", special_tokens=[("</s>", 2)]
    )
    names = {"bos_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=core, **names)


def roberta_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with trimmed offsets, and a mask token that takes the blank before it."""
    core = _byte_level()
    core.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), add_prefix_space=False
    )
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    mask = AddedToken("<mask>", lstrip=True, normalized=False)
    return PreTrainedTokenizerFast(tokenizer_object=core, mask_token=mask, **names)


def _byte_level() -> Tokenizer:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=SPECIALS, initial_alphabet=letters, show_progress=False
    )
    core.train_from_iterator(TEXT, trainer)
    return core


def bert_tokenizer() -> PreTrainedTokenizerFast:
    """WordPiece in lower case; unknown characters become [UNK]."""
    core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    core.train_from_iterator(
        TEXT,
        trainers.WordPieceTrainer(vocab_size=300, special_tokens=specials, show_progress=False),
    )
    core.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    return PreTrainedTokenizerFast(tokenizer_object=core, mask_token="[MASK]", **names)


def llama_tokenizer() -> PreTrainedTokenizerFast:
    """Characters with byte fallback, blanks as `▁` and one in front, `<s>` first, no padding
    token."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += sorted({letter for text in TEXT for letter in text if letter not in " \n"} | {"▁"})
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True))
    core.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


SHAPE = {
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "llama": {"intermediate_size": 64, "num_key_value_heads": 2},
    "mistral": {"intermediate_size": 64, "num_key_value_heads": 2, "sliding_window": 16},
    "roberta": {"intermediate_size": 64, "type_vocab_size": 1},
    "bert": {"intermediate_size": 64},
    "gpt2": {"n_inner": 64},
}
TOKENIZER = {
    "opt": opt_tokenizer,
    "llama": llama_tokenizer,
    "mistral": llama_tokenizer,
    "roberta": roberta_tokenizer,
    "bert": bert_tokenizer,
    "gpt2": opt_tokenizer,
}


def save_model(family: str, folder: Path) -> Path:
    """A random model of the family with its tokenizer, saved; its scores differ clearly."""
    tokenizer = TOKENIZER[family]()
    positions = NUM_POSITIONS + 2 if family == "roberta" else NUM_POSITIONS
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = AutoConfig.for_model(
        family,
        **SIZE,
        **SHAPE[family],
        **ids,
        vocab_size=len(tokenizer),
        max_position_embeddings=positions,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = (AutoModelForMaskedLM if family in MASKED else AutoModelForCausalLM).from_config(
            config
        )
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_any(folder: Path, config: Any, tokenizer: Any, auto: Any) -> Path:
    """A random model of any configuration, its logits clearly apart, with a tokenizer."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = auto.from_config(config)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Family -> folder of its tiny model."""
    root = tmp_path_factory.mktemp("zoo")
    families = (*CAUSAL, *MASKED, TRANSPOSED)
    yield {family: str(save_model(family, root / family)) for family in families}
