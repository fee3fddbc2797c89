"""A GGUF file of a tiny Llama, its matrices in Q4_1 or as a test says."""

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
from gguf.quants import quantize
from tokenizers.pre_tokenizers import ByteLevel

HIDDEN, FFN, HEADS = 32, 64, 2
F32, Q4_1, Q8_0 = (gguf.GGMLQuantizationType[name] for name in ("F32", "Q4_1", "Q8_0"))


def write_gguf(
    file: Path,
    architecture: str = "llama",
    *,
    kinds: tuple[gguf.GGMLQuantizationType, ...] = (Q4_1,),
    left_out: str = "",
    pre: str = "gpt-2",
    unknown: bool = True,
    more: Callable[[gguf.GGUFWriter], object] = lambda writer: None,
) -> dict[str, np.ndarray]:
    """The file; its matrices, by llama.cpp's names, before they were quantised.

    Args:
        kinds: of the matrices of each layer; the first is the embedding's as well.
        left_out: a tensor that the file is to lack.
        pre: the rules by which text is split.
        unknown: whether there is an unknown token, GPT-2's.
        more: adds to the file what a test wants in it.
    """
    generator = np.random.default_rng(0)
    tokens = [
        "<|endoftext|>" if unknown else "<|other|>",
        "<s>",
        "</s>",
        *sorted(ByteLevel.alphabet()),
        "Ġg",
        "Ġgr",
    ]
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(len(kinds))
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, 3, *[1] * (len(tokens) - 3)])
    writer.add_token_merges(["Ġ g", "Ġg r"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    if unknown:
        writer.add_unk_token_id(0)
    layer = {
        "attn_q": (HIDDEN, HIDDEN),
        "attn_k": (HIDDEN, HIDDEN),
        "attn_v": (HIDDEN, HIDDEN),
        "attn_output": (HIDDEN, HIDDEN),
        "ffn_gate": (FFN, HIDDEN),
        "ffn_up": (FFN, HIDDEN),
        "ffn_down": (HIDDEN, FFN),
    }
    before = {}

    def add(name: str, shape: tuple[int, ...], kind: gguf.GGMLQuantizationType) -> None:
        before[name] = generator.normal(0, 0.1, shape).astype(np.float32)
        if name != left_out:
            writer.add_tensor(name, quantize(before[name], kind), raw_dtype=kind)

    add("token_embd.weight", (len(tokens), HIDDEN), kinds[0])
    writer.add_tensor("output_norm.weight", np.ones(HIDDEN, dtype=np.float32))
    for i, kind in enumerate(kinds):
        for part, shape in layer.items():
            add(f"blk.{i}.{part}.weight", shape, kind)
        for part in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{i}.{part}.weight", np.ones(HIDDEN, dtype=np.float32))
    more(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return before
