"""Written answers: greedy as by hand, batches as one by one, F1 and likelihood as their
formulas."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import bszo
from bszo.errors import ModelError
from bszo.models import GenerativeModel, LanguageModel, ProbedModel, load_model, tuning
from bszo.perturb import mix64
from bszo.perturb.noise import values
from bszo.tasks import Example, GenerationTask, Task, token_f1
from tests.squares import square

EXAMPLES = [
    Example("x:0", "the film is", (" dull",), 0, ("dull", "flat")),
    Example("x:1", "Question: Where did Tom go?\nAnswer:", (" to the park",), 0, ("to the park",)),
    Example("x:2", "Anna was late because", (" of the rain",), 0, ("of the rain",)),
]
Make = Callable[..., GenerativeModel]


def task(**changes: Any) -> GenerationTask:
    plain: dict[str, Any] = {
        "name": "t",
        "version": 1,
        "hub": {"path": "x"},
        "splits": {"train": "train", "test": "test"},
        "columns": ["q"],
        "label": "answers",
        "num_train": 1,
        "num_validation": 1,
        "max_new_tokens": 10,
        "causal": {"prompt": "{q}", "options": [" {answer}"]},
    }
    return GenerationTask(**(plain | changes))


def options_task(objective: str) -> Task:
    prompt = {"prompt": "{q}", "options": ["a", "b"]}
    return Task(
        name="t",
        version=1,
        hub={"path": "x"},  # type: ignore[arg-type]
        splits={"train": "train", "test": "test"},
        columns=("q",),
        label="label",
        label_names=("negative", "positive"),
        num_train=1,
        num_validation=1,
        causal=prompt,  # type: ignore[arg-type]
        masked={**prompt, "prompt": "{q} <mask>"},  # type: ignore[arg-type]
        objective=objective,
    )


def model_of(name: str, scheme: str = "full", **changes: Any) -> GenerativeModel:
    model: LanguageModel = load_model(f"asset:{name}", dtype="float32")
    model = model if scheme == "full" else getattr(tuning, scheme)(model, seed=3)
    return GenerativeModel(model, task(**changes))


def by_hand(model: GenerativeModel, question: Any) -> str:
    """The most probable next token, over and over, without a cache."""
    ids = list(question.prompt)
    for _ in range(model.task.max_new_tokens):
        with torch.no_grad():
            ids.append(
                int(
                    model.module(input_ids=torch.tensor([ids]), use_cache=False)
                    .logits[0, -1]
                    .argmax()
                )
            )
        if ids[-1] == model.tokenizer.eos_token_id or "\n" in model.tokenizer.decode([ids[-1]]):
            break
    text = model.tokenizer.decode(ids[len(question.prompt) :], skip_special_tokens=True)
    return text.split("\n")[0].strip()


@pytest.mark.parametrize(
    ("name", "scheme"), square(["tiny-opt", "tiny-mistral"], ["full", "lora", "prefix", "prompt"])
)
def test_batches_write_what_greedy_decoding_by_hand_writes(name: str, scheme: str):
    model = model_of(name, scheme)
    questions: Any = model.encode(EXAMPLES)
    expected = [by_hand(model, question) for question in questions]
    assert any(expected)
    assert model.answer(questions, max_tokens=10_000) == expected
    assert model.answer(questions, max_tokens=1) == expected
    assert model.mean_f1(questions, max_tokens=10_000) == pytest.approx(
        sum(token_f1(text, e.answers) for text, e in zip(expected, EXAMPLES, strict=True)) / 3
    )


@pytest.mark.parametrize("scheme", ["full", "lora", "prompt"])
def test_a_folder_s_own_generation_settings_are_not_its_greedy_answers(scheme: str):
    """Many chat models' generation_config.json has a repetition penalty; what is saved keeps it."""
    model = model_of("tiny-opt", scheme)
    questions: Any = model.encode(EXAMPLES)
    expected = [by_hand(model, question) for question in questions]
    settings: Any = model.module.generation_config
    settings.repetition_penalty = 9.0
    settings.min_new_tokens = 9
    settings.return_dict_in_generate = True
    assert model.answer(questions, max_tokens=10_000) == expected
    assert model.module.generation_config.repetition_penalty == 9.0  # type: ignore[union-attr]


def test_an_answer_stops_at_the_newline_or_at_its_longest():
    model = model_of("tiny-opt", max_new_tokens=3)
    questions: list[Any] = model.encode(EXAMPLES)
    for question, text in zip(questions, model.answer(questions, max_tokens=999), strict=True):
        assert "\n" not in text
        assert len(model.tokenizer(f" {text}", add_special_tokens=False).input_ids) <= 4, (
            question.id
        )


def test_likelihood_is_the_mean_negative_log_probability_of_the_answer():
    model = model_of("tiny-mistral")
    batch = model.collate(model.encode(EXAMPLES))
    total = 0.0
    for example in EXAMPLES:
        ids = model.tokenizer(example.prompt + example.options[0]).input_ids
        answer = len(model.tokenizer(example.options[0], add_special_tokens=False).input_ids)
        with torch.no_grad():
            log_p = model.module(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        total -= (
            sum(float(log_p[t - 1, ids[t]]) for t in range(len(ids) - answer, len(ids))) / answer
        )
    assert model.loss(batch).item() == pytest.approx(total / 3, rel=1e-4)


def test_f1_as_an_objective_has_no_gradient_and_moves_zeroth_order_methods():
    """Gold answers are what the model writes by itself, less a word: -F1 is known, and a
    perturbation changes it."""
    model = model_of("tiny-opt", objective="f1")
    written = model.answer(model.encode(EXAMPLES), max_tokens=999)  # type: ignore[arg-type]
    gold = [text.rpartition(" ")[0] for text in written]
    batch = model.collate(
        model.encode(
            [
                Example(e.id, e.prompt, e.options, 0, (g,))
                for e, g in zip(EXAMPLES, gold, strict=True)
            ]
        )
    )
    expected = -sum(token_f1(text, (g,)) for text, g in zip(written, gold, strict=True)) / 3
    loss = model.loss(batch)
    assert (
        loss.item() == pytest.approx(expected) and -1 < expected < -0.5 and not loss.requires_grad
    )
    parameters = list(model.module.parameters())
    before = [p.clone() for p in parameters]
    optimizer = bszo.MeZO(parameters, lr=1e-5, eps=1e-2, seed=0, module=model.module)
    values = [optimizer.step(lambda: model.loss(batch)) for _ in range(4)]
    assert all(-1 <= value <= 0 for value in values) and len(set(values)) > 1
    assert any(not torch.equal(a, b) for a, b in zip(before, parameters, strict=True))


def test_any_function_of_the_texts_is_an_objective_and_es_takes_its_z_scores():
    """theta <- theta + lr / N sum_i (R_i - mean R) / std(R) z_i, R_i the mean reward at theta + eps
    z_i."""
    seen: list[float] = []

    def letters(answers: Any, gold: Any) -> list[float]:
        assert gold == [e.answers for e in EXAMPLES]
        found = [float(len(answer)) for answer in answers]
        seen.append(sum(found) / len(found))
        return found

    model = model_of("tiny-opt", objective=letters, max_new_tokens=4)
    batch = model.collate(model.encode(EXAMPLES))
    module: Any = model.module
    bias = module.get_decoder().final_layer_norm.bias
    before = bias.detach().clone()
    optimizer = bszo.ES([bias], lr=0.1, eps=0.5, num_directions=3, seed=4, module=model.module)
    optimizer.step(lambda: model.loss(batch))
    rewards = torch.tensor(seen[-3:], dtype=torch.float64)
    assert optimizer.last is not None
    assert optimizer.last.losses == pytest.approx((-rewards).tolist())
    scores = (rewards - rewards.mean()) / rewards.std()
    z = torch.stack([values(bias.shape, 0, mix64(4, 0, i)).double() for i in range(3)])
    assert rewards.std() > 0
    expected = before.double() + 0.1 / 3 * (scores[:, None] * z).sum(0)
    assert torch.allclose(bias.detach().double(), expected, atol=1e-6)


def test_the_accuracy_of_options_is_an_objective():
    """- the share of right answers, that of each example in turn; the same with a probe."""
    plain = load_model("asset:tiny-roberta", dtype="float32")
    task_of = options_task("accuracy")
    examples = [
        Example(f"x:{i}", f"{text} It was <mask> .", (" terrible", " great"), i % 2)
        for i, text in enumerate(["a dull film .", "a lovely film .", "a film .", "dull ."])
    ]
    for model in (plain, ProbedModel(plain, 2)):
        model.rewarded = task_of
        batch = model.collate(model.encode(examples))
        right = [
            float(guess == e.label)
            for guess, e in zip(
                model.predict(model.encode(examples), max_tokens=999), examples, strict=True
            )
        ]
        assert 0 < sum(right) < 4
        assert model.losses(batch).tolist() == [-value for value in right]
        assert model.loss(batch).item() == -sum(right) / 4


def test_a_long_prompt_leaves_room_for_its_answer():
    model = model_of("tiny-opt")
    (question,) = model.encode(
        [Example("x:0", "the film is dull . " * 200 + "so", (" dull",), 0, ("dull",))]
    )
    assert question.truncated and len(question.prompt) == 256 - 10  # type: ignore[attr-defined]
    assert question.prompt[0] == model.tokenizer.bos_token_id  # type: ignore[attr-defined]
    end = model.tokenizer(" dull . so", add_special_tokens=False).input_ids
    assert question.prompt[-len(end) :] == tuple(end)  # type: ignore[attr-defined]
    assert isinstance(model.answer([question], max_tokens=1)[0], str)  # type: ignore[list-item]


def test_a_prompt_that_is_cut_for_its_answer_alone_counts_as_cut():
    """With the gold option it would fit."""
    model = model_of("tiny-opt")
    example = Example("x:0", "dull " * 246, ("so",), 0, ("so",))
    (question,) = model.encode([example])
    assert not LanguageModel.encode(model, [example])[0].truncated and question.truncated


def test_an_answer_that_begins_with_the_stop_is_empty(monkeypatch: pytest.MonkeyPatch):
    """One token may hold the stop and what stands behind it."""
    model = model_of("tiny-opt")
    ids = model.tokenizer("\nso", add_special_tokens=False).input_ids
    monkeypatch.setattr(model, "_tokens", lambda prompts, seeds: [ids])
    assert model.answer(model.encode(EXAMPLES[:1]), max_tokens=1) == [""]  # type: ignore[arg-type]


def test_who_cannot_write():
    with pytest.raises(ModelError, match=r"^task=t: tiny-roberta is masked and writes no answers"):
        GenerativeModel(load_model("asset:tiny-roberta", dtype="float32"), task())
    with pytest.raises(ModelError, match=r"^task.max_new_tokens=255: leaves no room in 256 tokens"):
        model_of("tiny-opt", max_new_tokens=255)
