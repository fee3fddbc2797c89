"""Weight-decay groups leave out what must not decay; the fingerprint sees every bit."""

import pytest
import torch
from torch import nn

from bszo.errors import ModelError
from bszo.models import load_model, parameter_groups, weights_fingerprint


def names_of(module: nn.Module, parameters: list[nn.Parameter]) -> set[str]:
    return {
        name for name, p in module.named_parameters() if any(p is other for other in parameters)
    }


@pytest.mark.parametrize("family", ["opt", "llama", "roberta", "bert"])
def test_biases_and_norms_do_not_decay(zoo: dict[str, str], family: str) -> None:
    module = load_model(zoo[family], dtype="float32").module
    decayed, plain = parameter_groups(module, 0.1)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    assert len(decayed["params"]) + len(plain["params"]) == len(list(module.parameters()))
    assert all(
        "norm" in name.lower() or name.endswith("bias")
        for name in names_of(module, plain["params"])
    )
    assert not any(
        "norm" in name.lower() or name.endswith("bias")
        for name in names_of(module, decayed["params"])
    )


def test_a_norm_over_two_dimensions_does_not_decay() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm([2, 4]))
    decayed, plain = parameter_groups(module, 0.1)
    assert names_of(module, decayed["params"]) == {"0.weight"}
    assert names_of(module, plain["params"]) == {"0.bias", "1.weight", "1.bias"}


def test_without_decay_there_is_one_group_and_frozen_parameters_are_left_out(
    zoo: dict[str, str],
) -> None:
    module = load_model(zoo["opt"], dtype="float32").module
    frozen = module.get_input_embeddings().weight  # type: ignore[operator]
    frozen.requires_grad_(False)
    for decay, num_groups in ((0.0, 1), (0.1, 2)):
        groups = parameter_groups(module, decay)
        assert len(groups) == num_groups
        assert not any(p is frozen for group in groups for p in group["params"])
    module.requires_grad_(False)
    with pytest.raises(ModelError, match="no trainable parameter"):
        parameter_groups(module, 0.0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_fingerprint_is_stable_and_sees_the_last_bit(zoo: dict[str, str], dtype: str) -> None:
    first, second = (load_model(zoo["opt"], dtype=dtype).module for _ in range(2))  # type: ignore[arg-type]
    before = weights_fingerprint(first)
    assert before == weights_fingerprint(second)
    parameter = list(second.parameters())[-1]
    bits = parameter.data.view(torch.int32 if dtype == "float32" else torch.int16)
    bits.view(-1)[-1] ^= 1
    assert weights_fingerprint(second) != before
    bits.view(-1)[-1] ^= 1
    assert weights_fingerprint(second) == before


def test_the_fingerprint_sees_names_and_shapes() -> None:
    def filled(name: str, *shape: int) -> nn.Module:
        module = nn.Module()
        module.register_parameter(name, nn.Parameter(torch.ones(shape)))
        return module

    prints = {
        weights_fingerprint(module)
        for module in (filled("a", 6), filled("b", 6), filled("a", 2, 3))
    }
    assert len(prints) == 3
    assert len(weights_fingerprint(filled("scalar"))) == 64
