"""Estimation leaves every tiny model as it was, to the bit, in every type."""

from typing import Any

import pytest
from torch import Tensor

from bszo.models import load_model, weights_fingerprint
from bszo.perturb import Copies, Gaussian, LossOracle, Streaming
from bszo.tasks import MASK, Example

GAP = {"tiny-roberta": f" It was{MASK} .", "tiny-opt": " It was", "tiny-mistral": " It was"}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", list(GAP))
def test_estimation_leaves_theta(name: str, dtype: Any) -> None:
    model = load_model(f"asset:{name}", dtype=dtype)
    params: list[Tensor] = [p for p in model.module.parameters() if p.requires_grad]
    batch = model.collate(
        model.encode(
            [
                Example(str(i), "the film ." + GAP[name], (" great", " terrible"), i)
                for i in range(2)
            ]
        )
    )
    before, addresses = weights_fingerprint(model.module), [p.data_ptr() for p in params]
    losses = []
    for engine in (Streaming(params, model.module), Copies(params, list(range(len(params))))):
        oracle = LossOracle(params, lambda: model.loss(batch), Gaussian(params), engine)
        losses.append(oracle.measure([{}, {1: 0.1}, {1: -0.1}, {2: 0.1, 3: 0.05}, {}]))
        assert (
            weights_fingerprint(model.module) == before
            and [p.data_ptr() for p in params] == addresses
        )
    assert losses[0] == losses[1] and losses[0][0] == losses[0][4] and len(set(losses[0])) > 1
