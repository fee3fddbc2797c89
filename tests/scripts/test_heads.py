"""scripts/study/heads.py and its section: scores as they are, with a bias, and with a probe."""

import json
from pathlib import Path

import pytest

from bszo.models import fit_label_bias, fit_probe
from experiments.config.compose import compose
from experiments.config.schema import parse
from experiments.tables.real.heads import behind_training_section
from experiments.tables.sources import MeasurementError
from experiments.training.build import build
from scripts.study.heads import of_heads


def test_what_is_fitted_is_of_training_rows_and_stays_with_no_model():
    few = ("data.num_train=64", "data.num_test=16", "task.num_train=32", "task.num_validation=16")
    config = compose(
        ["model=tiny-opt", "task=sst2", "data=mini", "protocol=smoke", "tracker=none", *few]
    )
    parts = build(parse(config))
    found = of_heads(parts, 1000)
    assert parts.model.label_bias is None
    bias = fit_label_bias(parts.model, parts.train, max_tokens=1000)
    assert found["bias"] == pytest.approx(bias.tolist(), abs=1e-6)
    probe = fit_probe(parts.model, parts.train, max_tokens=1000)
    assert found["spread"] == probe.spread
    for split in ("validation", "test"):
        encoded = getattr(parts, split)
        scores = parts.model.score_all(encoded, max_tokens=1000)
        probed = probe.scores(*parts.model.features(encoded, max_tokens=1000))
        for kind, logits in (("plain", scores), ("biased", scores + bias), ("probed", probed)):
            right = [row.argmax() == e.label for row, e in zip(logits, encoded, strict=True)]
            assert found[kind][f"{split}_accuracy"] == pytest.approx(sum(right) / 16)
            chances = logits.log_softmax(-1)[range(16), [e.label for e in encoded]]
            assert found[kind][f"{split}_loss"] == pytest.approx(-chances.mean().item(), abs=1e-5)


def test_a_line_for_each_method(tmp_path: Path):
    file = tmp_path / "heads.json"
    assert behind_training_section(file) is None

    def of(method: str, passes: int, before: float, after: float) -> dict[str, object]:
        kinds = {"plain": before, "biased": after, "probed": after + 0.1}
        scores = {
            kind: {"validation_loss": 1 - value, "test_accuracy": value}
            for kind, value in kinds.items()
        }
        return {"method": method, "num_forwards": passes, **scores}

    models = [
        of("zero-shot", 0, 0.5, 0.68),
        {**of("MeZO", 1000, 0.68, 0.7), "lr": 3e-5},
        {**of("MeZO", 1000, 0.7, 0.74), "lr": 3e-5},
    ]
    file.write_text(json.dumps({"models": models}))
    section = behind_training_section(file)
    assert section is not None and section.rows == (
        ("zero-shot", "-", "0", "0.500", "0.320", "0.220", "50.0", "68.0", "78.0"),
        (
            *("MeZO", "3e-05", "1,000"),
            *("0.310 (0.014; 2)", "0.280 (0.028; 2)", "0.180 (0.028; 2)"),
            *("69.0 (1.4; 2)", "72.0 (2.8; 2)", "82.0 (2.8; 2)"),
        ),
    )
    for damaged in ("{", "[]", '{"models": [{"method": "MeZO"}]}'):
        file.write_text(damaged)
        with pytest.raises(MeasurementError, match=r"^heads.json: not a report of scripts"):
            behind_training_section(file)
