"""A direction for each example, in five architectures: each loss against a pass at its own
weights."""

import pytest
import torch

from bszo import EachMeZO
from bszo.errors import ModelError
from bszo.models import tuning
from bszo.models.traits import Traits
from bszo.perturb import mix64
from tests.models.conftest import CAUSAL, MASKED
from tests.models.test_scores import examples_for, load


@pytest.mark.parametrize(
    ("family", "packed", "adapted"),
    [*((family, False, False) for family in (*CAUSAL, *MASKED)), ("llama", True, True)],
)
def test_an_example_s_loss_is_that_of_its_own_weights(
    zoo: dict[str, str], family: str, packed: bool, adapted: bool
) -> None:
    """Two and three options, of one and of several tokens; a layer that sees all tokens in one axis
    (OPT), and one that sees the positions of the options alone (RoBERTa)."""
    model = load(zoo[family], packed=packed)
    if adapted:
        model = tuning.lora(model, rank=2)
    module = model.module
    batch = model.collate(model.encode(examples_for(model)))

    def closure() -> torch.Tensor:
        return model.losses(batch)

    closure.examples = model.examples(batch)  # type: ignore[attr-defined]
    c = 0.05
    optimizer = EachMeZO(module.parameters(), lr=0.0, eps=c, seed=1, module=module)
    optimizer.step(closure)
    assert optimizer.last is not None
    count = len(batch.labels)
    (plus, minus) = (optimizer.last.losses[:count], optimizer.last.losses[count:])
    with torch.no_grad():
        assert closure().mean().item() == pytest.approx(model.loss(batch).item(), abs=1e-6)
        params = [p for p in module.parameters() if p.requires_grad]
        at_theta = [p.clone() for p in params]
        family_of = optimizer.directions()
        for e in range(count):
            seed = mix64(mix64(1, 0, 0), e)
            for found, sign in ((plus, c), (minus, -c)):
                for i, p in enumerate(params):
                    p.copy_(at_theta[i] + sign * family_of.direction(seed, i))
                assert found[e] == pytest.approx(closure()[e].item(), abs=2e-5), (e, sign)
            for p, theta in zip(params, at_theta, strict=True):
                p.copy_(theta)
        assert max(abs(p - m) for p, m in zip(plus, minus, strict=True)) > 1e-3


def test_a_batch_of_several_passes_is_refused(zoo: dict[str, str]) -> None:
    model = load(zoo["roberta"])
    model.traits = Traits(padded=False)
    encoded = model.encode(examples_for(model))
    whole, heads = model.examples(model.collate(encoded[:1]))
    assert whole.unique().tolist() == heads.unique().tolist() == [0]
    with pytest.raises(ModelError, match=r"padding moves its scores.* is for one pass"):
        model.examples(model.collate(encoded))
