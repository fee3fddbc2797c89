"""Sampled answers: their distribution, the same draws at all points of a step and in all parts of a
batch, others at the next step."""

import math
import random
from functools import cache
from typing import Any

import pytest
import torch

import bszo
from bszo.errors import ModelError
from bszo.models import GenerativeModel, load_model, tuning
from bszo.models.sampling import Gumbel, seed_of
from bszo.perturb import mix64
from bszo.tasks import Example, GenerationTask

EXAMPLES = [
    Example("x:0", "the film is", (" dull",), 0, ("dull",)),
    Example("x:1", "Question: Where did Tom go?\nAnswer:", (" to the park",), 0, ("the park",)),
    Example("x:2", "Anna was late because", (" of the rain",), 0, ("of the rain",)),
]
WORD = 0xFFFFFFFF


def letters(answers: Any, gold: Any) -> list[float]:
    return [float(len(answer)) for answer in answers]


@cache
def base(scheme: str) -> Any:
    """A model whose weights no test here changes."""
    model: Any = load_model("asset:tiny-opt", dtype="float32")
    return model if scheme == "full" else getattr(tuning, scheme)(model, seed=3)


def model_of(scheme: str = "full", *, seed: int = 5, **changes: Any) -> GenerativeModel:
    plain: dict[str, Any] = {
        "name": "t",
        "version": 1,
        "hub": {"path": "x"},
        "splits": {"train": "train", "test": "test"},
        "columns": ["q"],
        "label": "answers",
        "num_train": 1,
        "num_validation": 1,
        "causal": {"prompt": "{q}", "options": [" {answer}"]},
        "objective": letters,
        "num_samples": 3,
        "temperature": 0.8,
        "max_new_tokens": 4,
    }
    return GenerativeModel(base(scheme), GenerationTask(**(plain | changes)), seed=seed)


def uniform(seed: int, place: int, token: int) -> float:
    """u of the module's head, in whole numbers: the hash of `bszo.perturb.noise.spec`, unsigned."""
    pair = mix64(seed, place)
    h = (token * (-1640531527 & WORD) + (pair & WORD)) & WORD
    h = ((h ^ (h >> 16)) * 0x7FEB352D + (pair >> 32)) & WORD
    h = ((h ^ (h >> 15)) * 0x846CA68B) & WORD
    signed = h - ((h >> 31) << 32)
    return (signed + 2**31 + 0.5) / 2**32


def by_hand(model: GenerativeModel, question: Any, seed: int) -> str:
    """One sample, token by token, without a cache."""
    ids = list(question.prompt)
    for place in range(model.task.max_new_tokens):
        with torch.no_grad():
            logits = model.module(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
        scores = [
            logit / model.task.temperature - math.log(-math.log(uniform(seed, place, token)))
            for token, logit in enumerate(logits.tolist())
        ]
        ids.append(scores.index(max(scores)))
        if ids[-1] == model.tokenizer.eos_token_id or "\n" in model.tokenizer.decode([ids[-1]]):
            break
    text = model.tokenizer.decode(ids[len(question.prompt) :], skip_special_tokens=True)
    return text.split("\n")[0].strip()


def test_tokens_have_their_probabilities_alone_and_in_pairs():
    """Within 5 standard deviations of softmax(logits / T), the next token and the next sample
    independent of it."""
    logits, temperature, count = [1.0, 0.0, -0.5, 0.3], 0.7, 20_000
    weights = [math.exp(value / temperature) for value in logits]
    p = [weight / sum(weights) for weight in weights]
    seeds = [seed_of(0, i // 2, "q", i % 2) for i in range(count)]
    noise = Gumbel(seeds, temperature, width=3)
    rows = torch.tensor(logits).repeat(count, 1)
    first, second = (
        noise(torch.zeros(count, 3 + place, dtype=torch.long), rows).argmax(-1) for place in (0, 1)
    )
    assert torch.equal(first, noise(torch.zeros(count, 3, dtype=torch.long), rows).argmax(-1))

    def fits(found: torch.Tensor, q: float, of: int) -> bool:
        return abs(int(found.sum()) - of * q) <= 5 * math.sqrt(of * q * (1 - q))

    for a in range(4):
        assert fits(first == a, p[a], count)
        for b in range(4):
            assert fits((first == a) & (second == b), p[a] * p[b], count)
            assert fits((first[::2] == a) & (first[1::2] == b), p[a] * p[b], count // 2)


@pytest.mark.parametrize("scheme", ["full", "prompt"])
def test_a_sample_is_the_formula_s_in_any_batch(scheme: str):
    model = model_of(scheme)
    questions: Any = model.encode(EXAMPLES)
    expected = [
        by_hand(model, question, mix64(5, 7, -9, mix64(*question.id.encode()), j))
        for question in questions
        for j in range(3)
    ]
    assert len(set(expected)) > 5
    assert model.sample(questions, step=7, max_tokens=10_000) == expected
    assert model.sample(questions, step=7, max_tokens=1) == expected
    assert model.sample(questions[::-1], step=7, max_tokens=10_000) == [
        text for i in (6, 3, 0) for text in expected[i : i + 3]
    ]


def test_the_loss_is_the_mean_reward_whatever_part_of_the_batch_a_process_has():
    """Nothing but seed, step and question decides it, and no generator is moved."""
    model = model_of()
    questions: Any = model.encode(EXAMPLES)
    state, other = torch.get_rng_state(), random.getstate()
    texts = model.sample(questions, step=4, max_tokens=10_000)

    def loss(part: Any, step: int | None) -> float:
        return model.loss(model.collate(part, step=step)).item()

    assert loss(questions, 4) == pytest.approx(-sum(map(len, texts)) / 9) == loss(questions, 4)
    parts = 2 * loss(questions[::2], 4) + loss(questions[1::2], 4)
    assert parts / 3 == pytest.approx(loss(questions, 4))
    assert torch.equal(state, torch.get_rng_state()) and other == random.getstate()
    assert texts != model.sample(questions, step=5, max_tokens=10_000)
    assert texts != model_of(seed=6).sample(questions, step=4, max_tokens=10_000)
    with pytest.raises(ModelError, match=r"^task.num_samples=3: .* the batch is for none; collate"):
        loss(questions, None)


def test_a_low_temperature_writes_the_greedy_answer_and_evaluation_always_does():
    model = model_of(temperature=1e-6)
    greedy = model_of(num_samples=0, temperature=1.0)
    questions: Any = model.encode(EXAMPLES)
    written = greedy.answer(questions, max_tokens=10_000)
    assert model.sample(questions, step=0, max_tokens=10_000) == [t for t in written for _ in "abc"]
    assert model_of().answer(questions, max_tokens=10_000) == written
    loss = greedy.loss(greedy.collate(questions)).item()
    assert loss == pytest.approx(-sum(map(len, written)) / 3)


def test_all_points_of_a_step_draw_alike_and_the_next_step_otherwise():
    """Along directions too short to change a weight, only the draws could tell two points apart."""
    seen: list[tuple[str, ...]] = []

    def kept(answers: Any, gold: Any) -> list[float]:
        seen.append(tuple(answers))
        return letters(answers, gold)

    model = model_of(objective=kept)
    questions: Any = model.encode(EXAMPLES)
    weights = [p for p in model.module.parameters() if p.ndim > 1]
    optimizer = bszo.MeZO(weights, lr=0.0, eps=1e-30, num_directions=2, module=model.module)
    for _ in range(3):
        batch = model.collate(questions, step=optimizer.num_steps)
        optimizer.step(lambda batch=batch: model.loss(batch))
    steps = [set(seen[4 * i : 4 * i + 4]) for i in range(3)]
    assert len(seen) == 12 and all(len(texts) == 1 for texts in steps)
    assert len(set.union(*steps)) == 3
