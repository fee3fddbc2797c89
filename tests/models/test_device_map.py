"""A model spread by accelerate gives the numbers of one that is not; weights that are elsewhere are
refused."""

from typing import Any

import pytest
import torch
from accelerate import dispatch_model

import bszo
from bszo.errors import ModelError
from bszo.models import LanguageModel, load_model
from bszo.tasks import Example

EXAMPLES = [Example(str(i), f"the film was number {i}", (" good", " bad"), i % 2) for i in range(4)]


def trained(model: LanguageModel) -> tuple[list[float], list[torch.Tensor]]:
    optimizer = bszo.BSZO(model.module.parameters(), lr=1e-5, eps=1e-3, module=model.module, seed=1)
    batch = model.collate(model.encode(EXAMPLES))
    losses = [optimizer.step(lambda: model.loss(batch)) for _ in range(4)]
    return losses, [p.detach().clone() for p in model.module.parameters()]


def test_streaming_goes_through_the_hooks_of_accelerate():
    plain = load_model("asset:tiny-opt", dtype="float32")
    hooked = load_model("asset:tiny-opt", dtype="float32", device_map={"": "cpu"})
    module: Any = hooked.module
    names = [f"model.decoder.{child}" for child, _ in module.model.decoder.named_children()]
    places: Any = dict.fromkeys([*names, "lm_head"], "cpu")
    dispatch_model(module, places, force_hooks=True)
    assert sum(hasattr(part, "_hf_hook") for part in module.modules()) > 2
    (losses, weights), (others, moved) = trained(plain), trained(hooked)
    assert losses == others
    assert all(torch.equal(a, b) for a, b in zip(weights, moved, strict=True))


@pytest.mark.parametrize(
    ("device_map", "says"),
    [
        (
            {"model": "cpu", "lm_head": "disk"},
            "leaves weights on disk; weights that accelerate offloads cannot",
        ),
        ({"": "meta"}, "leaves weights on meta; weights that accelerate offloads cannot"),
        ("everywhere", "^model.device_map=everywhere: must be one of auto, balanced"),
        ({"": "cuda:99"}, "asset:tiny-opt"),
    ],
)
def test_a_map_that_cannot_be_used_is_one_line(device_map: Any, says: str):
    with pytest.raises(ModelError, match=says) as caught:
        load_model("asset:tiny-opt", dtype="float32", device_map=device_map)
    assert len(str(caught.value).splitlines()) == 1


def test_what_accelerate_offloads_by_itself_is_seen(monkeypatch: pytest.MonkeyPatch):
    """Where the GPUs are too small, transformers leaves shadows on `meta`."""
    from transformers import OPTForCausalLM

    plain: Any = OPTForCausalLM.from_pretrained

    def cramped(*arguments: Any, **settings: Any) -> Any:
        module, info = plain(*arguments, **settings)
        module.lm_head = torch.nn.Linear(4, 4, device="meta")
        return module, info

    monkeypatch.setattr(OPTForCausalLM, "from_pretrained", cramped)
    with pytest.raises(ModelError, match="leaves weights on meta"):
        load_model("asset:tiny-opt", dtype="float32", device_map="auto")
