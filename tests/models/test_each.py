"""A direction for each example, in six architectures: each loss against a pass at its own
weights."""

from typing import Any

import pytest
import torch

import bszo.models.packing
from bszo import EachMeZO
from bszo.errors import ModelError
from bszo.models import tuning
from bszo.models.traits import Traits
from bszo.perturb import mix64
from bszo.perturb.compiled import loader
from bszo.perturb.engines import each_pass
from tests.models.conftest import CAUSAL, MASKED, TRANSPOSED
from tests.models.test_scores import examples_for, load

ALL: Any = {"vectors": "perturb", "embeddings": "perturb"}


@pytest.mark.parametrize(
    ("family", "packed", "adapted", "parts"),
    [
        *((family, False, False, {}) for family in (*CAUSAL, *MASKED)),
        ("llama", True, True, {}),
        *((family, False, False, ALL) for family in (*CAUSAL, *MASKED, TRANSPOSED)),
        ("llama", True, False, ALL),
        ("roberta", False, False, {"vectors": "perturb"}),
    ],
)
def test_an_example_s_loss_is_that_of_its_own_weights(
    zoo: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    packed: bool,
    adapted: bool,
    parts: Any,
) -> None:
    """Two and three options, of one and of several tokens; a layer that sees all tokens in one axis
    (OPT), and one that sees the positions of the options alone (RoBERTa); with all that has a
    direction, a head that is the embedding, a bias of words, positions of each row and of all;
    packed, in rows that hold texts of several examples."""
    monkeypatch.setattr(bszo.models.packing, "WIDTH", 200)
    model = load(zoo[family], packed=packed)
    if adapted:
        model = tuning.lora(model, rank=2)
    module = model.module.double()
    params = [p for p in module.parameters() if p.requires_grad]
    generator = torch.Generator().manual_seed(0)
    for p in params:  # norms' weights are ones and biases zeros where a model is new
        if p.ndim == 1:
            p.data += 0.3 * torch.randn(p.shape, generator=generator)
    batch = model.collate(model.encode(examples_for(model)))

    def closure() -> torch.Tensor:
        return model.losses(batch)

    closure.examples = model.examples(batch)  # type: ignore[attr-defined]
    c = 0.05
    before = [p.detach().clone() for p in params]
    optimizer = EachMeZO(params, lr=0.0, eps=c, seed=1, module=module, **parts)
    optimizer.step(closure)
    assert optimizer.last is not None
    assert all(optimizer.last.reach) == (parts == ALL or adapted)
    count = len(batch.labels)
    (plus, minus) = (optimizer.last.losses[:count], optimizer.last.losses[count:])
    with torch.no_grad():
        assert closure().mean().item() == pytest.approx(model.loss(batch).item(), abs=1e-6)
        assert all(torch.equal(p, q) for p, q in zip(params, before, strict=True))
        at_theta = [p.clone() for p in params]
        family_of = optimizer.directions()
        for e in range(count):
            seed = mix64(mix64(1, 0, 0), e)
            for found, sign in ((plus, c), (minus, -c)):
                for i, p in enumerate(params):
                    p.copy_(at_theta[i] + sign * family_of.direction(seed, i))
                assert found[e] == pytest.approx(closure()[e].item(), abs=2e-6), (e, sign)
            for p, theta in zip(params, at_theta, strict=True):
                p.copy_(theta)
        assert max(abs(p - m) for p, m in zip(plus, minus, strict=True)) > 1e-3


@pytest.mark.parametrize("family", [*CAUSAL, *MASKED, TRANSPOSED])
def test_the_compiled_kernel_of_large_models_finds_the_same_losses(
    zoo: dict[str, str], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if loader.library() is None:
        pytest.skip("no C compiler here")
    model = load(zoo[family])
    batch = model.collate(model.encode(examples_for(model)))

    def closure() -> torch.Tensor:
        return model.losses(batch)

    closure.examples = model.examples(batch)  # type: ignore[attr-defined]
    params, found = list(model.module.parameters()), {}
    for compile_from in (None, 0):
        if compile_from is not None:
            monkeypatch.setattr(each_pass, "COMPILE_FROM", compile_from)
        optimizer = EachMeZO(params, lr=0.0, eps=0.05, seed=1, rank=2, module=model.module, **ALL)
        optimizer.step(closure)
        assert optimizer.last is not None
        found[compile_from] = optimizer.last.losses
    assert found[0] == pytest.approx(found[None], rel=1e-5)
    assert found[0] != found[None]  # it was the kernel


def test_a_batch_of_several_passes_is_refused(zoo: dict[str, str]) -> None:
    model = load(zoo["roberta"])
    model.traits = Traits(padded=False)
    encoded = model.encode(examples_for(model))
    whole, heads = model.examples(model.collate(encoded[:1]))
    assert whole.unique().tolist() == heads.unique().tolist() == [0]
    with pytest.raises(ModelError, match=r"padding moves its scores.* is for one pass"):
        model.examples(model.collate(encoded))
