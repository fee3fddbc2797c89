"""Blocks: found in the module trees of the paper's families, restricted to, and free outside."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bszo.errors import OptimError
from bszo.perturb import (
    Blocks,
    Copies,
    Gaussian,
    LossOracle,
    Streaming,
    Walk,
    noise,
    partition,
    seed_in_block,
)
from bszo.perturb.noise import eager

SIZES: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 8,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
}


def roberta() -> nn.Module:
    from transformers import RobertaConfig, RobertaForMaskedLM

    return RobertaForMaskedLM(RobertaConfig(intermediate_size=16, **SIZES))


def opt() -> nn.Module:
    from transformers import OPTConfig, OPTForCausalLM

    return OPTForCausalLM(OPTConfig(ffn_dim=16, word_embed_proj_dim=8, **SIZES))


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(intermediate_size=16, **SIZES))


def mistral() -> nn.Module:
    from transformers import MistralConfig, MistralForCausalLM

    return MistralForCausalLM(MistralConfig(intermediate_size=16, num_key_value_heads=1, **SIZES))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "roberta": roberta,
    "opt": opt,
    "llama": llama,
    "mistral": mistral,
}
# what a layer's name must hold for its parameters to be in the attention half, as a reader of the
# four models says it
ATTENTION = {
    "roberta": ("attention.",),
    "opt": ("self_attn",),
    "llama": ("self_attn", "input_layernorm"),
    "mistral": ("self_attn", "input_layernorm"),
}
LINEARS = {"roberta": 6, "opt": 6, "llama": 7, "mistral": 7}
EMBEDDINGS = {
    "roberta": ("roberta.embeddings.",),
    "opt": ("model.decoder.embed_",),
    "llama": ("model.embed_tokens",),
    "mistral": ("model.embed_tokens",),
}


def named(name: str, by: Any) -> list[tuple[str, list[str]]]:
    with torch.random.fork_rng():
        module = MODELS[name]()
    names = [n for n, _ in module.named_parameters()]
    blocks = partition(list(module.parameters()), by, module)
    assert sorted(i for block in blocks for i in block.indices) == list(range(len(names))), (
        "each is in exactly one"
    )
    return [(block.name, [names[i] for i in block.indices]) for block in blocks]


@pytest.mark.parametrize("name", list(MODELS))
def test_transformer_blocks(name: str) -> None:
    first, *layers, last = named(name, "transformer")
    assert first[0] == "embeddings" and all(n.startswith(EMBEDDINGS[name]) for n in first[1])
    assert len(layers) == 3
    for number, (block, names) in enumerate(layers):
        assert block.endswith(f".{number}") and all(n.startswith(f"{block}.") for n in names)
    assert last[0] == "head" and not any(
        n.startswith(EMBEDDINGS[name]) or ".layer" in n.replace(".layer_norm", "") for n in last[1]
    )


@pytest.mark.parametrize("name", list(MODELS))
def test_halves_and_linear_layers(name: str) -> None:
    _, *halves, _ = named(name, "halves")
    assert [block.split()[-1] for block, _ in halves] == ["attention", "mlp"] * 3
    for block, names in halves:
        inside = [any(part in n for part in ATTENTION[name]) for n in names]
        assert all(inside) if block.endswith("attention") else not any(inside)
    first, *linears, last = named(name, "linear")
    assert (first[0], last[0], len(linears)) == ("embeddings", "head", 3 * LINEARS[name])
    for _, names in linears:
        matrices = [n for n in names if "norm" not in n.lower() and n.endswith("weight")]
        assert len(matrices) == 1
        assert all(
            "norm" in n.lower() or n.startswith(matrices[0].removesuffix("weight")) for n in names
        )


def test_adapters_go_with_what_they_adapt() -> None:
    from peft import LoraConfig, get_peft_model

    module: Any = get_peft_model(
        MODELS["opt"](), LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
    )  # type: ignore[arg-type]
    trained = [p for p in module.parameters() if p.requires_grad]
    assert [len(block.indices) for block in partition(trained, "transformer", module)] == [4, 4, 4]
    assert [len(block.indices) for block in partition(trained, "linear", module)] == [2] * 6


def test_what_fits_nothing_is_refused_in_one_line() -> None:
    plain, model = nn.Linear(2, 2), MODELS["opt"]()
    for params, by, module, message in [
        (
            list(plain.parameters()),
            "layer",
            plain,
            "blocks='layer': one of none, tensor, linear, halves, transf",
        ),
        (
            list(plain.parameters()),
            "transformer",
            plain,
            "blocks='transformer': Linear has no list of repeated",
        ),
        (list(plain.parameters()), "linear", None, "needs module="),
        (list(plain.parameters()), "transformer", model, "parameter 0 of shape"),
        (
            [next(model.parameters())],
            "transformer",
            model,
            "no trainable parameter lies in the 3 modules of model",
        ),
        (
            list(nn.Sequential(plain, nn.Linear(2, 2)).parameters()),
            "halves",
            nn.Sequential(plain, nn.Linear(2, 2)),
            "Linear has no child that is an attention",
        ),
    ]:
        with pytest.raises(OptimError, match=message) as caught:
            partition(params, by, module)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)


@pytest.fixture
def params() -> list[Tensor]:
    return [
        torch.randn(6, 5).requires_grad_(),
        torch.randn(6).requires_grad_(),
        torch.randn(3).requires_grad_(),
    ]


def test_a_direction_lies_in_the_block_that_its_seed_names(params: list[Tensor], size: str) -> None:
    base, tested = Gaussian(params), Blocks(Gaussian(params), partition(params, "tensor"))
    for block in range(3):
        seed = seed_in_block(12345678901234567890, block, 3)
        for i, z in enumerate(tested(params, seed)):
            assert torch.equal(z, base.direction(seed, i) if i == block else torch.zeros_like(z))
    seeds = [seed_in_block(9, block, 3) for block in range(3)]
    terms = {seed: 0.5 for seed in seeds}
    for i, p in enumerate(params):
        theta = p.detach().double()
        expected = 0.9 * theta + 0.5 * base.direction(seeds[i], i)
        torch.testing.assert_close(
            tested.shift(theta, i, terms, decay=0.9), expected, rtol=0, atol=1e-13
        )
        assert set(tested.own(i, terms)) == {seeds[i]}
    rows = torch.tensor([3, 1])
    assert torch.equal(
        tested.shift_rows(params[0].detach(), 0, rows, terms),
        tested.shift(params[0].detach(), 0, terms)[rows],
    )
    with pytest.raises(OptimError, match="a number from 0 to 2"):
        tested.seed(1, 3)


@pytest.mark.parametrize("engine", ["streaming", "copy", "in-place", "two-leg", "three-leg"])
def test_other_blocks_cost_nothing(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No noise for them, no pass over them, and the same bits in them to the end."""
    module = nn.ModuleList([nn.Linear(4, 4) for _ in range(3)])
    params: list[Tensor] = list(module.parameters())
    drawn: list[int] = []
    for name in ("shift", "values"):
        draw = getattr(noise, name)
        for place in (noise, eager):
            monkeypatch.setattr(
                place, name, lambda t, i, *a, draw=draw, **k: drawn.append(i) or draw(t, i, *a, **k)
            )

    def closure() -> Tensor:
        x = torch.ones(2, 4)
        for layer in module:
            x = layer(x)
        return x.sum()

    make: Any = {
        "streaming": lambda: Streaming(params, module),
        "copy": lambda: Copies(params, list(range(6))),
    }
    tested = Blocks(Gaussian(params), partition(params, "transformer", module))
    used = make[engine]() if engine in make else Walk(params, engine)  # type: ignore[arg-type]
    oracle = LossOracle(params, closure, tested, used)
    assert [block.indices for block in tested.blocks] == [(0, 1), (2, 3), (4, 5)]
    base = oracle.loss()
    before = [p.detach().clone() for p in params]
    # streaming watches its first pass and must not take the others' use for a miss
    for block in (0, 1, 2, 1):
        seed = tested.seed(77, block)
        drawn.clear()
        assert oracle.loss({seed: 0.1}) != base
        oracle.home()
        assert set(drawn) == set(tested.blocks[block].indices)
    drawn.clear()
    oracle.move_({tested.seed(5, 1): 1.0}, [0.1] * 6, [0.0] * 6)
    assert drawn == [2, 3]
    moved = [not torch.equal(p, q) for p, q in zip(params, before, strict=True)]
    if engine in ("streaming", "copy"):
        assert moved == [False, False, True, True, False, False]
    if isinstance(oracle.engine, Streaming):
        assert oracle.engine.copies.indices == []
