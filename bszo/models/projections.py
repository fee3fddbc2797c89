"""Where the attention of a family of models has its query and value projections."""

from torch import nn

from bszo.errors import ModelError
from bszo.models.language_model import LanguageModel, kind_of

# names of the query and the value projection in an attention module, by family
PAIRS = (
    ("q_proj", "v_proj"),
    ("query", "value"),
    ("q_lin", "v_lin"),
    ("query_proj", "value_proj"),  # DeBERTa-v2 and v3
    ("q", "v"),  # MPNet
)
# projections of families that have neither those nor a row in peft's table
FUSED = {"phi3": ["qkv_proj"], "modernbert": ["Wqkv"], "mamba": ["in_proj", "x_proj"]}


def lora_targets(model: LanguageModel) -> list[str]:
    """The names of the layers that LoRA adapts: the query and value projections, or where they are
    not layers of their own what peft's table says of the family.

    Raises:
        ModelError: neither is known.
    """
    try:
        return [name.removeprefix(".") for name in query_and_value(model)]
    except ModelError:
        from peft.utils.constants import (
            TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as TABLE,
        )

        known = {**FUSED, **TABLE}.get(getattr(model.module.config, "model_type", ""))
        if known is None or isinstance(known, str):
            raise
        return list(known)


def query_and_value(model: LanguageModel) -> tuple[str, str]:
    """The ends of the names of all query and value projections, such as `.q_proj` and `.v_proj`.

    Raises:
        ModelError: no attention module has both as linear layers.
    """
    for query, value in PAIRS:
        for part in model.module.modules():
            if all(isinstance(getattr(part, name, None), nn.Linear) for name in (query, value)):
                return f".{query}", f".{value}"
    known = ", ".join("/".join(pair) for pair in PAIRS)
    raise ModelError(
        f"tuning=lora: {kind_of(model)} has no linear query and value projections of their own"
        f" ({known}), and peft knows no others; tuning=full needs none,"
        " nor do tuning=prefix and tuning=prompt in a model that takes virtual tokens"
    )
