"""A bias of each label: fitted to what the scores leave, and added to every score."""

from dataclasses import replace

import pytest
import torch

from bszo.errors import ModelError
from bszo.models import GenerativeModel, LanguageModel, evaluate, fit_label_bias
from bszo.models.logistic import TAU
from bszo.tasks import Example
from tests.models.test_generate import task
from tests.models.test_scores import load

WORDS = (" terrible", " great", " long")
PROMPTS = ("the movie was", "It was", "the man was", "the film was long so it was", "was it")


def rows(model: LanguageModel, labels: list[int], options: tuple[str, ...] = WORDS) -> list:
    mask = "" if model.style == "causal" else " <mask>"
    prompts = [PROMPTS[i % len(PROMPTS)] + mask for i in range(len(labels))]
    pairs = zip(prompts, labels, strict=True)
    return model.encode([Example(str(i), p, options, label) for i, (p, label) in enumerate(pairs)])


@pytest.mark.parametrize("family", ["llama", "roberta"])
def test_labels_are_as_probable_as_they_are_frequent(zoo: dict[str, str], family: str) -> None:
    """The condition of the maximum, up to the prior's part of b / (N TAU^2)."""
    model = load(zoo[family])
    labels = [0, 0, 0, 1, 0, 2, 0, 1, 0, 0]
    encoded = rows(model, labels)
    bias = fit_label_bias(model, encoded, max_tokens=1000).double()
    scores = model.score_all(encoded, max_tokens=1000).double()
    probable = (scores + bias).softmax(-1).mean(0)
    frequent = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    torch.testing.assert_close(probable + bias / (10 * TAU**2), frequent, atol=1e-6, rtol=0)
    torch.testing.assert_close(probable, frequent, atol=0.01, rtol=0)
    assert bias.sum().abs() < 1e-5


def test_it_is_added_to_scores_choices_and_losses(zoo: dict[str, str]) -> None:
    model = load(zoo["llama"])
    encoded = rows(model, [0, 1, 2, 0])
    batch = model.collate(encoded)
    with torch.no_grad():
        scores, losses = model.scores(batch), model.losses(batch)
        model.label_bias = torch.tensor([0.0, 3.0, -1.0])
        torch.testing.assert_close(model.scores(batch), scores + model.label_bias)
        chosen = (scores + model.label_bias).argmax(-1).tolist()
        assert model.predict(encoded, max_tokens=100) == chosen
        plain = -(scores + model.label_bias).log_softmax(-1)[range(4), [0, 1, 2, 0]]
        torch.testing.assert_close(model.losses(batch), plain)
        assert not torch.allclose(plain, losses)
        found = evaluate(model, encoded, 100)
    assert found.loss == pytest.approx(plain.mean().item(), abs=1e-6)
    assert found.accuracy == sum(a == b for a, b in zip(chosen, [0, 1, 2, 0], strict=True)) / 4


def test_a_second_fit_is_of_the_model_without_the_first(zoo: dict[str, str]) -> None:
    model = load(zoo["llama"])
    encoded = rows(model, [0, 1, 2, 2, 0, 1])
    first = fit_label_bias(model, encoded, max_tokens=100)
    model.label_bias = first + 1
    torch.testing.assert_close(fit_label_bias(model, encoded, max_tokens=100), first)


def test_a_label_without_a_row_has_a_bias_that_is_finite(zoo: dict[str, str]) -> None:
    model = load(zoo["llama"])
    encoded = rows(model, [0, 0, 0, 1])
    bias = fit_label_bias(model, encoded, max_tokens=100)
    scores = model.score_all(encoded, max_tokens=100)
    assert bias.isfinite().all() and (scores + bias).softmax(-1)[:, 2].max() < 0.02


def test_what_has_no_bias_of_a_label_is_refused(zoo: dict[str, str]) -> None:
    model = load(zoo["llama"])
    differing = rows(model, [0]) + rows(model, [0], (" great", " long", " was"))
    with pytest.raises(ModelError, match=r"same options in every row, and 2 rows have 2 lists"):
        fit_label_bias(model, differing, max_tokens=100)
    with pytest.raises(ModelError, match=r"same options in every row, and 0 rows have 0 lists"):
        fit_label_bias(model, [], max_tokens=100)
    writes = GenerativeModel(model, task())
    with pytest.raises(ModelError, match=r"writes its answers"):
        fit_label_bias(writes, [replace(rows(model, [0])[0])], max_tokens=100)
