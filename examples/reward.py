"""Teach a tiny model to write what a rule likes, by forward passes: python reward.py

The rule counts the different colours in a text. It knows nothing of the model and has no
derivative: what the model writes is a step function of its weights. ES perturbs all of them along
10 directions a step, lets the model write, and moves along the z-scores of the rewards. Before and
after, the model writes on beginnings that training never saw.
"""

import statistics

import torch

from bszo import ES
from bszo.models import GenerativeModel, load_model
from bszo.tasks import Example, GenerationTask

COLOURS = {"black", "blue", "green", "red", "white", "yellow"}
VERBS = ("bought", "sold", "found", "lost")
SEEN, UNSEEN = ("Anna", "Tom", "Kate", "Ben"), ("Lucy", "Paul", "Mary", "Sam", "Nina", "Peter")
STEPS, DIRECTIONS, SEEDS = 30, 10, (0, 1, 2)


def colours(texts, gold):
    """The number of different colours in each text."""
    return [len(COLOURS & set(text.lower().replace(".", "").split())) for text in texts]


def beginnings(names):
    """What the model goes on from. A rule needs no right answers, so that "-" stands for them."""
    texts = [f"{name} {verb}" for name in names for verb in VERBS]
    return [Example(f"{i}", text, (" -",), 0, ("-",)) for i, text in enumerate(texts)]


def model_for(samples):
    """The model, whose answers count: so many that are sampled for each beginning, or at 0 the
    greedy one."""
    task = GenerationTask(
        name="colours",
        version=1,
        hub={"path": "-"},
        splits={"train": "train", "test": "test"},
        columns=("text",),
        label="answers",
        num_train=1,
        num_validation=1,
        causal={"prompt": "{text}", "options": [" {answer}"]},
        objective=colours,
        num_samples=samples,
        max_new_tokens=10,
    )
    return GenerativeModel(load_model("asset:tiny-opt", dtype="float32"), task)


def trained(seed, steps=STEPS, samples=0):
    """The rewards before and after training on unseen beginnings, those of all steps, and texts."""
    model = model_for(samples)
    seen, unseen = (model.encode(beginnings(names)) for names in (SEEN, UNSEEN))

    def written():
        texts = model.answer(unseen, max_tokens=10_000)
        return texts, statistics.fmean(colours(texts, []))

    before, first = written()
    # copy: a text takes many passes, for all of which the perturbed weights are made once
    optimizer = ES(
        list(model.module.parameters()),
        lr=4e-3,
        eps=1e-2,
        num_directions=DIRECTIONS,
        seed=seed,
        perturbation="copy",
    )
    curve = []
    for step in range(steps):
        batch = model.collate(seen, step=step)  # what is sampled is drawn anew at each step
        curve.append(-optimizer.step(lambda batch=batch: model.loss(batch)))
    after, last = written()
    pairs = zip(beginnings(UNSEEN), before, after, strict=True)
    texts = [(example.prompt, was, now) for example, was, now in pairs]
    return {"seed": seed, "before": first, "after": last, "curve": curve, "texts": texts}


def shown(run):
    """What a run has learnt, as text."""
    head = (
        f"seed {run['seed']}: {run['before']:.2f} colours a text before, {run['after']:.2f} after"
    )
    pairs = (
        f"  {prompt} | {was}\n  {' ' * len(prompt)} > {now}"
        for prompt, was, now in run["texts"][::6]
    )
    return "\n".join([head, *pairs])


if __name__ == "__main__":
    torch.set_num_threads(1)
    for seed in SEEDS:
        print(shown(trained(seed)), flush=True)
