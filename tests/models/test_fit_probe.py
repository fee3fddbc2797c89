"""A linear probe that is fitted at once: against another solver, and through the model."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch.nn.functional import cross_entropy

from bszo.errors import ModelError
from bszo.models import (
    GenerativeModel,
    LanguageModel,
    ProbedModel,
    evaluate,
    fit_probe,
    load_model,
    tuning,
)
from bszo.models.fit_probe import SPREADS, fit_features
from bszo.models.logistic import NUM_FOLDS, TAU, added, cross_validated, fit_logistic
from tests.models.test_generate import task
from tests.models.test_label_bias import rows
from tests.models.test_scores import load


def drawn(count: int, options: int, width: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Scores, features and labels that a hidden head has drawn."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(count, options, generator=generator)
    features = torch.randn(count, 1, width, generator=generator).expand(-1, options, -1)
    head = torch.randn(options, width, generator=generator)
    probable = (scores + (features * head).sum(-1)).softmax(-1)
    return scores, features, torch.multinomial(probable, 1, generator=generator)[:, 0]


def test_the_fit_is_the_minimum_that_another_solver_finds() -> None:
    scores, features, labels = drawn(40, 3, 5)
    weight, bias = fit_logistic(scores, labels, features, spread=0.5)
    s, x, y = scores.double().numpy(), features.double().numpy(), labels.numpy()

    def loss(flat: np.ndarray) -> float:
        w, b = flat[:15].reshape(3, 5), flat[15:]
        z = s + np.einsum("noh,oh->no", x, w) + b
        z = z - np.log(np.exp(z).sum(1, keepdims=True))
        prior = (w**2).sum() / 0.5**2 + (b**2).sum() / TAU**2
        return -z[np.arange(40), y].mean() + prior / 80

    best = minimize(loss, np.zeros(18), method="BFGS", options={"gtol": 1e-8})
    assert weight is not None
    np.testing.assert_allclose(weight.numpy().ravel(), best.x[:15], atol=1e-4)
    np.testing.assert_allclose(bias.numpy(), best.x[15:], atol=1e-4)


def test_rows_that_are_scored_are_not_those_that_are_fitted() -> None:
    scores, features, labels = drawn(23, 2, 4)
    found = cross_validated(scores, labels, features, (0.1, 1.0))
    for spread, loss in found.items():
        total = 0.0
        for i in range(23):
            others = [j for j in range(23) if j % NUM_FOLDS != i % NUM_FOLDS]
            fit = fit_logistic(scores[others], labels[others], features[others], spread=spread)
            one = added(scores[i : i + 1].double(), features[i : i + 1].double(), *fit)
            total += cross_entropy(one, labels[i : i + 1]).item() / 23
        assert loss == pytest.approx(total, abs=1e-7)


def test_the_spread_is_small_where_features_say_nothing_and_large_where_they_say_all() -> None:
    scores, features, labels = drawn(200, 2, 8)
    told = fit_features(scores, features, labels)
    none = fit_features(scores, torch.randn_like(features), labels)
    assert none.spread <= 0.1 < told.spread
    assert set(told.losses) == set(SPREADS)
    assert told.losses[told.spread] == min(told.losses.values()) < none.losses[none.spread]


def test_more_dimensions_than_rows_are_fitted_in_the_span_of_the_rows() -> None:
    """w has no part that no row sees; the loss is what the fit in all dimensions has."""
    scores, features, labels = drawn(20, 3, 50)
    probe = fit_features(scores, features, labels)
    assert probe.weight.shape == (3, 50)
    phi = features.double()
    phi = (phi - phi.mean((0, 1))) / phi.std((0, 1))
    whole = fit_logistic(scores, labels, phi, spread=probe.spread)
    expected = added(scores.double(), phi, *whole)
    torch.testing.assert_close(probe.scores(scores, features), expected, atol=1e-4, rtol=1e-4)


def test_units_of_the_features_and_what_they_share_are_of_no_matter() -> None:
    scores, features, labels = drawn(60, 3, 4)
    units = torch.tensor([1.0, 100.0, 0.01, 1.0])
    moved = features * units + torch.tensor([0.0, 5.0, 3.0, -2.0])
    moved = torch.cat([moved, torch.full((60, 3, 1), 7.0)], -1)  # and one that is constant
    one, other = fit_features(scores, features, labels), fit_features(scores, moved, labels)
    assert one.spread == other.spread and other.weight[:, 4].abs().max() == 0
    torch.testing.assert_close(
        one.scores(scores, features), other.scores(scores, moved), atol=1e-4, rtol=1e-4
    )


WORDS, PHRASE = (" terrible", " great"), (" great story", " terrible")


@pytest.mark.parametrize(
    ("family", "options"),
    [(f, WORDS) for f in ("opt", "llama", "roberta", "bert")]
    + [("opt", PHRASE), ("llama", PHRASE)],
)
def test_the_model_scores_as_the_fit_says(
    zoo: dict[str, str], family: str, options: tuple[str, ...]
) -> None:
    model = load(zoo[family])
    encoded = rows(model, [0, 1, 1, 0, 1, 0, 0, 1, 1, 1], options)
    scores, features = model.features(encoded, max_tokens=60)
    torch.testing.assert_close(scores, model.logits(encoded, max_tokens=1000))
    probe = fit_probe(model, encoded, max_tokens=60)
    probed = ProbedModel(load(zoo[family]), 2)
    probed.set_head(probe.weight, probe.bias)
    found = probed.logits(encoded, max_tokens=1000).double()
    torch.testing.assert_close(found, probe.scores(scores, features), atol=1e-4, rtol=1e-4)
    # the features are those of the model without its head
    torch.testing.assert_close(probed.features(encoded, max_tokens=1000)[1], features)
    assert evaluate(probed, encoded, 1000).loss < evaluate(model, encoded, 1000).loss


def test_a_label_bias_of_the_model_is_no_part_of_its_features(zoo: dict[str, str]) -> None:
    model = load(zoo["llama"])
    encoded = rows(model, [0, 1, 2, 0])
    scores, features = model.features(encoded, max_tokens=100)
    model.label_bias = torch.tensor([0.0, 3.0, -1.0])
    for one, other in zip(model.features(encoded, max_tokens=30), (scores, features), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("adapter", ["none", "lora", "prompt", "prefix"])
def test_features_are_the_last_hidden_states_of_transformers(
    zoo: dict[str, str], adapter: str
) -> None:
    """Virtual tokens stand in front of the text; a state of theirs is no feature."""
    model = load(zoo["llama"])
    more: dict[str, Any] = {"rank": 2, "alpha": 4.0} if adapter == "lora" else {"num_tokens": 3}
    if adapter != "none":
        model = getattr(tuning, adapter)(model, seed=0, **more)
    encoded = rows(model, [0, 1, 1], (" great story", " terrible"))
    found = model.features(encoded, max_tokens=1000)[1]
    for i, example in enumerate(encoded):
        for o, option in enumerate(example.options):
            with torch.no_grad():
                out = model.module(
                    input_ids=torch.tensor([example.rows[option.row]]), output_hidden_states=True
                )
            text = out.hidden_states[-1][0, -len(example.rows[option.row]) :]
            expected = text[list(option.columns)].mean(0)
            torch.testing.assert_close(found[i, o], expected, atol=1e-5, rtol=1e-4)


def test_the_model_trains_with_its_head_where_it_is_not_frozen(tmp_path: Any) -> None:
    base = load_model("asset:tiny-opt", dtype="float32")
    count = sum(p.numel() for p in base.module.parameters())
    model = ProbedModel(base, 2, frozen=False)
    trained = [p for p in model.module.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) == count + 2 * 64 + 2
    assert model.plain is base


def test_what_cannot_be_fitted_is_refused(zoo: dict[str, str]) -> None:
    model = load(zoo["llama"])
    differing = rows(model, [0]) + rows(model, [0], (" great", " long", " was"))
    with pytest.raises(ModelError, match=r"same options in every row, and 2 rows have 2 lists"):
        fit_probe(model, differing, max_tokens=100)
    with pytest.raises(ModelError, match=r"is fitted on at least 2 rows, got 1$"):
        fit_probe(model, rows(model, [0]), max_tokens=100)
    generator: LanguageModel = GenerativeModel(model, task(), seed=0)
    with pytest.raises(ModelError, match=r"writes its answers"):
        fit_probe(generator, rows(model, [0, 1]), max_tokens=100)
