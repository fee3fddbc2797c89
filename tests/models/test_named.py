"""Training by name: which parameters move, by how much, and which names are refused."""

from typing import Any

import pytest
import torch

import bszo
from bszo.errors import ModelError
from bszo.models import LanguageModel, load_model
from bszo.models.named import named
from bszo.tasks import Example

EXAMPLES = [
    Example("x:0", "the movie was", (" great", " terrible"), 1),
    Example("x:1", "It was", (" great", " terrible"), 0),
]


@pytest.fixture
def model() -> LanguageModel:
    model = load_model("asset:tiny-opt", dtype="float32")
    model.module.double()
    return model


def trained(model: LanguageModel) -> list[str]:
    return [name for name, p in model.module.named_parameters() if p.requires_grad]


def test_any_pattern_that_matches_has_a_parameter_train(model: LanguageModel):
    names = [name for name, _ in model.module.named_parameters()]
    patterns = ["*layers.1.fc?.bias", "*final_layer_norm.weight"]
    assert named(model, parameters=patterns) is model
    wanted = [
        name
        for name in names
        if name.endswith(("layers.1.fc1.bias", "layers.1.fc2.bias", "final_layer_norm.weight"))
    ]
    assert trained(model) == wanted and 3 < len(wanted) < len(names)
    named(model, parameters=["*"])  # again: what was frozen trains
    assert trained(model) == names


@pytest.mark.parametrize("patterns", [["*.fc1.bias"], ["*.fc1.weight", "*norm.bias"], ["*embed*"]])
@pytest.mark.parametrize("perturbation", ["exact", "as-published"])
def test_a_step_is_the_formula_s_on_what_trains_and_all_else_stays(
    model: LanguageModel, patterns: list[str], perturbation: Any
):
    """A layer whose matrix is frozen and whose bias trains, and the reverse, streamed and walked:
    the coefficient is that of losses at theta +- eps z made by hand."""
    named(model, parameters=patterns)
    batch = model.collate(model.encode(EXAMPLES))
    optimizer = bszo.MeZO(
        model.module.parameters(),
        lr=1e-2,
        eps=1e-3,
        seed=5,
        module=model.module,
        perturbation=perturbation,
    )
    before = {name: p.detach().clone() for name, p in model.module.named_parameters()}
    optimizer.step(lambda: model.loss(batch))
    moved = {
        n: p.detach() - before[n] for n, p in model.module.named_parameters() if p.requires_grad
    }
    for name, p in model.module.named_parameters():
        assert torch.equal(p, before[name]) != p.requires_grad, name
    # z from the step itself: theta moved by -lr g z; the loss along it says what g has to be
    length = torch.cat([m.flatten() for m in moved.values()]).norm()
    count = sum(m.numel() for m in moved.values())

    def at(scale: float) -> float:
        with torch.no_grad():
            for name, p in model.module.named_parameters():
                p.copy_(before[name])
                if name in moved:
                    p.add_(moved[name], alpha=scale)
            return float(model.loss(batch))

    h = 1e-4
    slope = (at(h) - at(-h)) / (2 * h)  # moved^T grad = -lr g (z^T grad) = -lr g^2
    g = (-slope / 1e-2) ** 0.5
    assert float(length) == pytest.approx(1e-2 * g * count**0.5, rel=4 / count**0.5)


def test_what_names_nothing_is_refused(model: LanguageModel):
    with pytest.raises(ModelError, match=r"tuning.parameters=\[\]: must name at least one"):
        named(model, parameters=[])
    with pytest.raises(ModelError, match=r"no parameter whose name matches '\*q_proj'; it has"):
        named(model, parameters=["*bias", "*q_proj"])
    # a tied head has no name of its own, and a letter's case counts
    for pattern in ("lm_head.weight", "*BIAS"):
        with pytest.raises(ModelError, match="no parameter whose name matches"):
            named(model, parameters=[pattern])
