"""Shapes: the papers' architectures with random weights, for benchmarks, whose time and memory do
not depend on values."""

from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from bszo.errors import ModelError, needs, one_line
from bszo.models.load import DTYPES, check_placement


def _opt(hidden_size: int, num_hidden_layers: int, num_attention_heads: int) -> dict[str, Any]:
    """OPT (Zhang et al. 2022, arXiv 2205.01068, table 1): the feed-forward width is 4 x hidden."""
    return {
        "model_type": "opt",
        "vocab_size": 50272,
        "hidden_size": hidden_size,
        "word_embed_proj_dim": hidden_size,
        "ffn_dim": 4 * hidden_size,
        "num_hidden_layers": num_hidden_layers,
        "num_attention_heads": num_attention_heads,
        "max_position_embeddings": 2048,
    }


def _llama_2(
    hidden_size: int, intermediate_size: int, num_hidden_layers: int, num_heads: int
) -> dict[str, Any]:
    """LLaMA-2 (Touvron et al. 2023, arXiv 2307.09288) up to 13B: as many key-value heads as
    heads."""
    return {
        "model_type": "llama",
        "vocab_size": 32000,
        "hidden_size": hidden_size,
        "intermediate_size": intermediate_size,
        "num_hidden_layers": num_hidden_layers,
        "num_attention_heads": num_heads,
        "num_key_value_heads": num_heads,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
    }


SHAPES: dict[str, dict[str, Any]] = {
    "roberta-large": {
        "model_type": "roberta",
        "vocab_size": 50265,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
    },
    "opt-125m": _opt(768, 12, 12),
    "opt-1.3b": _opt(2048, 24, 32),
    "opt-2.7b": _opt(2560, 32, 32),
    "opt-6.7b": _opt(4096, 32, 32),
    "opt-13b": _opt(5120, 40, 40),
    "mistral-7b": {
        "model_type": "mistral",
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 32768,
        "sliding_window": 4096,
        "rms_norm_eps": 1e-5,
    },
    "llama-2-7b": _llama_2(4096, 11008, 32, 32),
    "llama-2-13b": _llama_2(5120, 13824, 40, 40),
    "vicuna-7b": _llama_2(4096, 11008, 32, 32),
}
MASKED = frozenset({"roberta", "bert"})  # model types whose language model is a masked one


def random_model(
    name: str,
    *,
    dtype: Literal["float32", "float16", "bfloat16"],
    device: str = "cpu",
    seed: int = 0,
) -> nn.Module:
    """A language model of a real architecture, matrices N(0, 0.02^2), biases 0, norms 1, in eval
    mode.

    Parameters are created in their dtype on their device. There is no float32 copy, and nothing is
    drawn twice.

    Args:
        name: one of SHAPES, or a folder (or file) with a config.json.
        dtype, device: of the parameters.
        seed: of a generator of its own; the global one is left alone.

    Raises:
        ModelError: a name that is neither, or a configuration that cannot be built.
    """
    check_placement(dtype, device)
    with needs("lm"):
        from transformers import AutoModelForCausalLM, AutoModelForMaskedLM
        from transformers.initialization import no_init_weights

    config = _config(name)

    architectures = " ".join(config.architectures or [])
    masked = "ForMaskedLM" in architectures or (not architectures and config.model_type in MASKED)
    auto = AutoModelForMaskedLM if masked else AutoModelForCausalLM
    with torch.device(device), no_init_weights():
        module = auto.from_config(config, dtype=DTYPES[dtype])
    module.tie_weights()
    refill(module, seed)
    return module.eval()


def _config(name: str) -> Any:
    from transformers import AutoConfig

    if name in SHAPES:
        return AutoConfig.for_model(**SHAPES[name])
    if not Path(name).exists():
        raise ModelError(
            f"shape {name!r}: neither a folder with a config.json nor one of {', '.join(SHAPES)}"
        )
    try:
        return AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(
            f"shape {name}: its config.json cannot be read: {one_line(error)}"
        ) from error


@torch.no_grad()
def refill(module: nn.Module, seed: int = 0) -> None:
    """The weights of `random_model`, drawn anew into a module: matrices N(0, 0.02^2), biases 0,
    norms 1."""
    generator = torch.Generator(next(module.parameters()).device).manual_seed(seed)
    for parameter_name, parameter in module.named_parameters():
        if parameter.ndim >= 2:
            parameter.normal_(0.0, 0.02, generator=generator)
        else:
            parameter.fill_(0.0 if parameter_name.endswith("bias") else 1.0)
