"""Parameter-efficient tuning: the base is frozen, and only an adapter of `peft` trains.

    lora     W + (alpha / rank) B A in place of the query and value matrices W, B = 0 at the start
    prefix   keys and values of `num_tokens` virtual tokens in front of every layer's own
    prompt   embeddings of `num_tokens` virtual tokens in front of the text's own

Hu et al. 2021, arXiv 2106.09685; Li and Liang 2021, arXiv 2101.00190; Lester et al. 2021, arXiv
2104.08691. A seed decides every starting value, and no global generator is moved. Adapters have the
base's dtype and device.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bszo.errors import ModelError, needs, one_line
from bszo.models.language_model import LanguageModel, kind_of
from bszo.models.module import num_positions
from bszo.models.projections import lora_targets

REFUSALS = (
    AttributeError,
    IndexError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)


def lora(
    model: LanguageModel,
    *,
    rank: int = 8,
    alpha: float = 16,
    seed: int = 0,
    target_modules: Sequence[str] | None = None,
) -> LanguageModel:
    """The model with W + (alpha / rank) B A in place of every query and value matrix W.

    B is 0 at the start, so that the scores are the base's.

    Args:
        rank: columns of B and rows of A.
        seed: of A, which peft draws from the Kaiming-uniform distribution.
        target_modules: the ends of the names of other layers to adapt, such as `["fc1", "fc2"]`.

    Raises:
        ModelError: a rank that fits no projection, a name that no layer has, or a model whose
            projections are not known.
    """
    with needs("lm"):
        from peft import LoraConfig

    targets = lora_targets(model) if target_modules is None else list(target_modules)
    if not targets:
        raise ModelError("tuning.target_modules=[]: must name at least one layer")
    parts: list[Any] = []
    for target in targets:
        found = [
            part
            for name, part in model.module.named_modules()
            if f".{name}".endswith(f".{target}")
            and isinstance(getattr(part, "weight", None), Tensor)
        ]
        if not found:
            raise ModelError(
                f"tuning.target_modules: {kind_of(model)} has no layer whose name ends in"
                f" {target!r}"
            )
        parts += found
    most = min(_smaller_side(part) for part in parts)
    if not 1 <= rank <= most:
        raise ModelError(
            f"tuning.rank={rank}: must be 1 to {most}, the smaller side of {model.name}'s"
            " projections"
        )
    if alpha <= 0:
        raise ModelError(f"tuning.alpha={alpha}: must be more than 0")
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]
        target_modules=targets,
        task_type=_task(model),  # type: ignore[arg-type]
    )
    try:
        return wrapped(model, attached(model, config, seed), model.limit)
    except REFUSALS as error:
        raise ModelError(
            f"tuning=lora: {kind_of(model)} cannot have adapters at {', '.join(targets)}"
            f" ({one_line(error)})"
        ) from error


def prefix(model: LanguageModel, *, num_tokens: int = 5, seed: int = 0) -> LanguageModel:
    """The model with trained keys and values in front of every layer's own.

    They start as the keys and values of tokens that are drawn from the vocabulary. A causal model
    therefore begins with the scores that it gives to texts with those tokens in front.

    Raises:
        ModelError: more tokens than the model has positions for, or a model that takes no keys and
            values.
    """
    with needs("lm"):
        from peft import PrefixTuningConfig, initialize_kv_prefix_from_past_key_values

    _refuse_packed(model, "prefix")
    if getattr(model.module.config, "is_encoder_decoder", False):
        raise ModelError(
            f"tuning=prefix: {kind_of(model)} is an encoder-decoder model, of which a prefix would"
            " stand before one half only; lora is valid"
        )
    limit = limit_beside(model, num_tokens)
    with _refusing(model, "prefix"), torch.no_grad():
        from transformers import DynamicCache

        cache, ids = DynamicCache(), _drawn(model, num_tokens, seed)
        model.module(input_ids=ids, past_key_values=cache)
        config = PrefixTuningConfig(num_virtual_tokens=num_tokens, task_type=_task(model))
        module = attached(model, config, seed)
        initialize_kv_prefix_from_past_key_values(module, past_key_values=cache)
        _check_trial(module, model, num_tokens, in_front=0)
    return wrapped(model, module, limit)


def prompt(model: LanguageModel, *, num_tokens: int = 10, seed: int = 0) -> LanguageModel:
    """The model with trained embeddings in front of the text's own.

    They start as the embeddings of tokens that are drawn from the vocabulary.

    Raises:
        ModelError: more tokens than the model has positions for, or a model that takes no
            embeddings.
    """
    with needs("lm"):
        from peft import PromptTuningConfig

    _refuse_packed(model, "prompt")
    limit = limit_beside(model, num_tokens)
    with _refusing(model, "prompt"), torch.no_grad():
        embeddings: Any = model.module.get_input_embeddings()  # type: ignore[operator]
        values: Tensor = embeddings(_drawn(model, num_tokens, seed))[0]
        # peft asks for layers and heads, which a prompt needs none of, and knows few of their names
        sizes: Any = model.module.config
        config = PromptTuningConfig(
            num_virtual_tokens=num_tokens,
            token_dim=values.shape[1],
            num_layers=getattr(sizes, "num_hidden_layers", 1),
            num_attention_heads=getattr(sizes, "num_attention_heads", 1),
            task_type=_task(model),
        )
        module = attached(model, config, seed)
        # peft takes the first parameter with as many rows as the vocabulary
        module.word_embeddings = embeddings
        module.prompt_encoder["default"].embedding.weight.copy_(values)
        _check_trial(module, model, num_tokens, in_front=num_tokens)
    return wrapped(model, module, limit)


def _smaller_side(part: Any) -> int:
    """Of a layer's matrix; a quantised one lies in another shape than it stands for."""
    return min(
        getattr(part, "in_features", part.weight.shape[0]),
        getattr(part, "out_features", part.weight.shape[-1]),
    )


def _task(model: LanguageModel) -> str:
    # peft's name for "any model, outputs as they are": it has none for masked language models
    return "CAUSAL_LM" if model.style == "causal" else "FEATURE_EXTRACTION"


def limit_beside(model: LanguageModel, num_tokens: int) -> int:
    """The number of tokens that a row may have, since the virtual ones take positions of the model
    too.

    Raises:
        ModelError: there are too few positions for so many virtual tokens, or none of these.
    """
    positions = num_positions(model.module)
    if num_tokens < 1 or (positions is not None and num_tokens > positions - 2):
        most = (
            ""
            if positions is None
            else f" and at most {positions - 2}, the model has {positions} positions"
        )
        raise ModelError(f"tuning.num_tokens={num_tokens}: must be at least 1{most}")
    return model.limit if positions is None else min(model.limit, positions - num_tokens)


def _drawn(model: LanguageModel, num_tokens: int, seed: int) -> Tensor:
    """(1, num_tokens) ids, each drawn from the whole vocabulary with equal chances."""
    ids = torch.randint(
        len(model.tokenizer), (1, num_tokens), generator=torch.Generator().manual_seed(seed)
    )
    return ids.to(model.device)


def attached(model: LanguageModel, config: Any, seed: int) -> Any:
    """The module inside peft's wrapper, in evaluation mode; adapters have the base's dtype."""
    with needs("lm"):
        from peft import get_peft_model

    module: Any = model.module
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # peft asks transformers under a name that will go
        warnings.simplefilter("ignore", FutureWarning)
        torch.default_generator.manual_seed(seed)
        tuned: Any = get_peft_model(module, config, autocast_adapter_dtype=False)
    if Path(str(config.base_model_name_or_path)).exists():  # the place of a folder is its owner's
        config.base_model_name_or_path = model.name
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(module.dtype)
    return tuned.eval()


def _check_trial(module: Any, model: LanguageModel, num_tokens: int, in_front: int) -> None:
    """Raise ValueError unless virtual tokens change the logits of a text: some models accept keys
    and values, and ignore them."""
    ids = torch.full((1, 2), len(model.tokenizer) - 1, device=model.device)
    inputs = {"input_ids": ids} | (
        {} if model.style == "causal" else {"attention_mask": torch.ones_like(ids)}
    )
    with_them = module(**inputs).logits
    if with_them.shape[1] != in_front + 2:
        raise ValueError(
            f"{num_tokens} virtual tokens and 2 real ones give {with_them.shape[1]} logits"
        )
    encoder = module.prompt_encoder["default"].embedding.weight
    kept = encoder.detach().clone()
    encoder.data.zero_()
    without = module(**inputs).logits
    encoder.data.copy_(kept)
    if torch.equal(with_them, without):
        raise ValueError("it does not look at virtual tokens")


def _refuse_packed(model: LanguageModel, method: str) -> None:
    """Virtual tokens stand in front of a row, which must hold one text then."""
    if model.traits.packed:
        raise ModelError(
            f"tuning={method}: its virtual tokens stand in front of a row, and model.packed=true"
            " puts many texts into one; model.packed=false is valid"
        )


@contextmanager
def _refusing(model: LanguageModel, method: str) -> Iterator[None]:
    """Turn whatever a model raises that has no place for virtual tokens into one ModelError."""
    kind = kind_of(model)
    try:
        yield
    except REFUSALS as error:
        others = "tuning=full needs none"
        with suppress(ModelError):
            lora_targets(model)
            others = "tuning=lora and tuning=full need none"
        raise ModelError(
            f"tuning={method}: {kind} cannot have virtual tokens ({one_line(error)}); {others}"
        ) from error


def wrapped(model: LanguageModel, module: Any, limit: int) -> LanguageModel:
    return LanguageModel(
        module,
        model.tokenizer,
        style=model.style,
        max_length=limit,
        name=model.name,
        traits=model.traits,
    )
