"""Directions shown by their factors, in six architectures: losses are those of parameters that are
written by hand, and no perturbed matrix is made."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bszo.models import LanguageModel, tuning
from bszo.models.encode import Encoded
from bszo.perturb import ByFactors, LossOracle, LowRank, OuterProduct
from tests.models.conftest import CAUSAL, MASKED, TRANSPOSED
from tests.models.test_scores import examples_for, load
from tests.perturb.test_by_factors import by_hand
from tests.perturb.test_engines import fingerprint


def encoded(model: LanguageModel, one_word: bool) -> list[Encoded]:
    """Examples, with options as they are or of one word each: their first."""
    whole = model.encode(examples_for(model))
    if not one_word:
        return whole
    return [
        replace(
            e,
            options=tuple(
                replace(o, columns=o.columns[:1], tokens=o.tokens[:1]) for o in e.options
            ),
        )
        for e in whole
    ]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """The shapes of the matrices that were shifted whole."""
    found: list[torch.Size] = []
    shift = LowRank.shift

    def noted(self: Any, theta: Tensor, *args: Any, **kwargs: Any) -> Any:
        found.append(theta.shape)
        return shift(self, theta, *args, **kwargs)

    monkeypatch.setattr(LowRank, "shift", noted)
    return found


@pytest.mark.parametrize("one_word", [True, False])
@pytest.mark.parametrize(
    ("family", "packed", "adapted"),
    [
        *((family, False, False) for family in (*CAUSAL, *MASKED, TRANSPOSED)),
        ("llama", True, True),
        ("llama", True, False),
    ],
)
def test_losses_of_language_models(
    zoo: dict[str, str],
    shown: list[torch.Size],
    family: str,
    packed: bool,
    adapted: bool,
    one_word: bool,
) -> None:
    """With the whole output layer, and with the options' words of it where each is one; of the
    matrices that are no embeddings none is shifted whole."""
    model = load(zoo[family], packed=packed)
    if adapted:
        model = tuning.lora(model, rank=4)
    module = model.module.double()
    batch = model.collate(encoded(model, one_word))
    params: list[Tensor] = [p for p in module.parameters() if p.requires_grad]
    generator = torch.Generator().manual_seed(0)
    for p in params:
        p.data += 0.1 * torch.randn(p.shape, generator=generator)
    before = fingerprint(module)
    directions = LowRank(params, 2, basis_seed=5)
    tested = LossOracle(
        params, lambda: model.loss(batch).item(), directions, ByFactors(params, module)
    )
    points: list[Any] = [{}, {3: 0.05}, {3: -0.05}, {4: 0.02, 9: 0.01}]
    found = [tested.loss(terms) for terms in points]
    tables = {e.weight.shape for e in module.modules() if isinstance(e, nn.Embedding)}
    assert not [s for s in shown if len(s) == 2 and s not in tables]
    assert fingerprint(module) == before
    expected = [by_hand(params, directions, terms, tested.closure) for terms in points]
    assert found == pytest.approx(expected, abs=2e-6)
    assert abs(found[1] - found[2]) > 1e-3


def test_a_head_whose_rows_are_looked_up_moves(zoo: dict[str, str]) -> None:
    """The options' words of an output layer of its own, whose weight a linear layer owns."""
    model = load(zoo["mistral"])
    module: Any = model.module
    words = module.get_input_embeddings()
    params: list[Tensor] = [p for n, p in model.module.named_parameters() if "lm_head" in n]
    assert len(params) == 1 and params[0] is not words.weight
    batch = model.collate(encoded(model, one_word=True))
    tested = LossOracle(
        params,
        lambda: model.loss(batch).item(),
        OuterProduct(params, 1),
        ByFactors(params, model.module),
    )
    assert tested.loss({3: 0.5}) != tested.loss({})
