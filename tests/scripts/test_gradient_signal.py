"""scripts/study/gradient_signal.py against gradients by hand."""

import copy
import json
import math
from pathlib import Path

import pytest
import torch

from bszo.models import load_model
from bszo.tasks import Example
from experiments.tables.real.gradient_signal import agreement, signal_section
from experiments.tables.sources import MeasurementError
from scripts.study import gradient_signal as study

EXAMPLES = [
    Example("x:0", "the movie was", (" great", " terrible"), 1),
    Example("x:1", "It was", (" great", " terrible"), 0),
    Example("x:2", "a film", (" great", " terrible"), 0),
    Example("x:3", "so bad", (" great", " terrible"), 1),
]


def test_what_batches_share_is_the_signal_and_their_noise_is_not():
    """Groups (3, 1), (3, -1), (3, 2), (3, -2): the products of different ones are 9 plus those of
    the noise, (-1 + 2 - 2 - 2 + 2 - 4) / 6; the square of the mean is 9 here."""
    means = [torch.tensor([3.0, noise]) for noise in (1.0, -1.0, 2.0, -2.0)]
    found, error = study.signal(means)
    assert found == pytest.approx(9 - 5 / 6)
    # without one group at a time: 9 - 4/3, 9 - 4/3, 9 - 1/3, 9 - 1/3
    spread = sum((v + 5 / 6) ** 2 for v in (-4 / 3, -4 / 3, -1 / 3, -1 / 3))
    assert error == pytest.approx(math.sqrt(spread * 3 / 4))
    equal = [torch.tensor([1.0, 2.0])] * 3
    assert study.signal(equal) == (5.0, 0.0)


def test_noise_alone_has_no_signal_on_average():
    generator = torch.Generator().manual_seed(0)
    found = [study.signal(list(torch.randn(4, 50, generator=generator))) for _ in range(400)]
    values = torch.tensor([value for value, _ in found])
    assert abs(float(values.mean())) < 4 * float(values.std()) / 20


def test_every_parameter_has_one_kind_and_squares_are_of_batches():
    model = load_model("asset:tiny-opt", dtype="float32")
    kinds = {name: study.kind(model.module, name) for name, _ in model.module.named_parameters()}
    assert kinds["model.decoder.embed_tokens.weight"] == "embeddings"
    assert kinds["model.decoder.layers.0.fc1.bias"] == "vectors"
    assert kinds["model.decoder.layers.0.fc1.weight"] == "fc1"
    encoded = model.encode(EXAMPLES)
    facts = study.by_kind(model, [*encoded] * 4, seed=0, count=4)
    sizes = {what: part["elements"] for what, part in facts.items()}
    assert sizes["all"] == sum(n for what, n in sizes.items() if what != "all")
    for key in ("signal", "batch"):
        parts = [part[key] for what, part in facts.items() if what != "all"]
        assert math.fsum(parts) == pytest.approx(facts["all"][key], rel=1e-5)
    # 16 rows of 16: every batch is all rows, and a batch's gradient is the signal
    assert facts["all"]["signal"] == pytest.approx(facts["all"]["batch"], rel=1e-5)
    own = copy.deepcopy(model)
    loss = own.loss(own.collate(encoded))
    gradients = torch.autograd.grad(loss, list(own.module.parameters()))
    square = sum(float(g.double().square().sum()) for g in gradients)
    assert facts["all"]["signal"] == pytest.approx(square, rel=1e-4)


def test_the_section_has_a_line_a_kind(tmp_path: Path):
    def kinds(norms: float) -> dict[str, dict[str, float]]:
        parts = {"vectors": (10, norms, 4.0), "q_proj": (100, 1.0, 8.0), "all": (110, 2.0, 12.0)}
        keys = ("elements", "signal", "batch")
        return {
            what: {**dict(zip(keys, values, strict=True)), "standard_error": 0.5}
            for what, values in parts.items()
        }

    points = [{"steps": 0, "kinds": kinds(1.0)}, {"steps": 50, "kinds": kinds(-0.1)}]
    file = tmp_path / "gradient_signal.json"
    file.write_text(json.dumps({"batch": 16, "batches": 60, "points": points}))
    section = signal_section(file)
    after = ("after 0 steps", "after 50 steps")
    assert section.columns == ("parameters", "elements", *after, *(f"A {when}" for when in after))
    # A = 16 * 12 / (2 + 16 * 10) = 1.19, and of the others 1.13, 1.31 and 0.98
    assert section.rows == (
        ("all", "110", *["2.00 (0.50) of 12.00: 17 %"] * 2, "1.2", "1.2"),
        ("q_proj", "100", *["1.00 (0.50) of 8.00: 12 %"] * 2, "1.1", "1.1"),
        ("vectors", "10", "1.00 (0.50) of 4.00: 25 %", "-0.10 (0.50) of 4.00: -2 %", "1.3", "1.0"),
    )
    assert "a batch of 16, over 60 batches" in section.notes[0]
    for damaged in ("{", "[]", '{"points": []}', '{"batch": 1, "batches": 2, "points": [{}]}'):
        file.write_text(damaged)
        with pytest.raises(MeasurementError, match=r"^gradient_signal.json: not a report of"):
            signal_section(file)


def test_a_is_the_mean_of_the_batches_over_that_of_their_rows():
    """Against the gradients themselves, where a batch is drawn from rows without end."""
    generator = torch.Generator().manual_seed(0)
    mean = torch.tensor([3.0, -1.0, 0.5])
    rows = mean + torch.randn(100_000, 8, 3, generator=generator, dtype=torch.float64)
    of_batches = rows.mean(1).square().sum(-1).mean().item()
    of_rows = rows.square().sum(-1).mean().item()
    facts = {"signal": mean.square().sum().item(), "batch": of_batches}
    assert agreement(facts, 8) == pytest.approx(8 * of_batches / of_rows, rel=0.02)
