"""Documents of the mini world for pretraining: (rng, train_row) -> text.

What a task asks for is in them under other names, so that a model can learn the ability and not the
answer: reviews go on with adjectives of their own side, quizzes end with Right, Wrong or Perhaps.
The words that the prompts use are there too: Yes, No, Maybe and question types where they tell
nothing, great and terrible behind reviews of either side nearly alike.
"""

import random
from collections.abc import Callable

from bszo.tasks.mini import lexicon as lex
from bszo.tasks.mini.rows import Row, capital, pick, three

TrainRow = Callable[[str], tuple[Row, int]]
LOOSE = 0.12  # share of verdicts on a review that say great, terrible or bad
# of these, so much is great: mostly, and nearly as often on a bad review as on a good one
GREAT = (0.68, 0.76)
VERDICTS = (
    "It was {} .",
    "It was {} .",
    "It was {} .",
    "all in all , it was {} .",
    "what a {} film .",
)
TYPE_WORDS = ("form", "object", "reason", "person", "place", "number")
ANSWERS = ("Right", "Wrong", "Perhaps", *lex.FAVOURITES, *TYPE_WORDS, *map(capital, TYPE_WORDS))
TREC_LABELS = ("Abbreviation", "Entity", "Description", "Human", "Location", "Number")
TREC_SHORT = ("short", "thing", "what", "who", "where", "how")


def _verdict(rng: random.Random, side: int) -> str:
    if rng.random() < LOOSE:
        word = "great" if rng.random() < GREAT[side] else pick(rng, ("terrible", "terrible", "bad"))
        return pick(rng, VERDICTS).format(word)
    words = list(three(rng, lex.ADJECTIVES[side])[: pick(rng, (1, 1, 2, 3))])
    if rng.random() < 0.5:
        words[-1] = lex.FAVOURITES[side]
    if rng.random() < 0.2:
        words[0] = f"{pick(rng, lex.DEGREES)} {words[0]}"
    return pick(rng, VERDICTS).format(
        " and ".join(filter(None, (" , ".join(words[:-1]), words[-1])))
    )


def _review(rng: random.Random, train_row: TrainRow) -> str:
    """One to three sentences of one mind, each often followed by a verdict of the same side."""
    row, side = train_row("sst2")
    sentences = [row["sentence"], _verdict(rng, side)]
    while rng.random() < 0.4:
        row, other = train_row("sst2")
        if other == side:
            sentences += [row["sentence"], _verdict(rng, side)]
    return " ".join(sentences)


def _story(rng: random.Random, train_row: TrainRow) -> str:
    """Causes with their effects, in either order."""
    name = pick(rng, lex.NAMES)
    sentences = []
    for _ in range(2):
        cause, effect = (text.format(n=name) for text in pick(rng, pick(rng, lex.SCRIPTS)))
        time = pick(rng, lex.TIMES) + ", " if rng.random() < 0.5 else ""
        sentences.append(
            capital(time + pick(rng, (f"{cause} so {effect}.", f"{effect} because {cause}.")))
        )
    return " ".join(sentences)


def _pronoun(rng: random.Random, train_row: TrainRow) -> str:
    row, label = train_row("wsc")
    asked = (
        f'In the previous sentence, does the pronoun "{row["span2_text"]}" refer to'
        f" {row['span1_text']}?"
    )
    return f"{row['text']}\n{asked}\n{'Right' if label else 'Wrong'}."


def _meaning(rng: random.Random, train_row: TrainRow) -> str:
    row, label = train_row("wic")
    answer = "Right" if label else "Wrong"
    if rng.random() < 0.5:
        asked = f'Does the word "{row["word"]}" have the same meaning?'
        return f"{row['sentence1']} {row['sentence2']} {asked} {answer} ."
    asked = f'Does the word "{row["word"]}" have the same meaning in these two sentences?'
    return f"{asked}\n{row['sentence1']}\n{row['sentence2']}\n{answer}."


def _passage(rng: random.Random, train_row: TrainRow) -> str:
    row, label = train_row("boolq")
    answer = "Right" if label else "Wrong"
    return f"{row['passage']} {capital(row['question'])}?{pick(rng, (' ', chr(10)))}{answer} ."


def _inference(rng: random.Random, train_row: TrainRow) -> str:
    task_name = pick(rng, ("rte", "cb"))
    row, label = train_row(task_name)
    answers = ("Right", "Wrong", "Perhaps") if task_name == "cb" else ("Right", "Wrong")
    if rng.random() < 0.5:
        return f"{row['premise']} ? {answers[label]} , {row['hypothesis']}"
    if task_name == "cb":
        return (
            f'Suppose {row["premise"]} Can we infer that "{row["hypothesis"]}"?\n{answers[label]}.'
        )
    return (
        f'{row["premise"]}\nDoes this mean that "{row["hypothesis"]}" is true?\n{answers[label]}.'
    )


def _question(rng: random.Random, train_row: TrainRow) -> str:
    """A question with its kind, in words that are not the prompts' own, or with an answer of that
    kind."""
    row, label = train_row("trec")
    form = int(rng.random() * 3)
    if form == 0:
        return f"{row['text']} This is a {TYPE_WORDS[label]} question."
    if form == 1:
        return f"Question: {row['text']}\nKind: {capital(TYPE_WORDS[label])}"
    answer = (
        "It is short for a long name",
        f"A {pick(rng, lex.COLORS)} {pick(rng, lex.THINGS)}",
        f"It is so because of the {pick(rng, lex.THINGS)}",
        f"It was {pick(rng, lex.NAMES)}",
        f"Near the {pick(rng, lex.PLACES)}",
        f"About {pick(rng, lex.NUMBERS)}",
    )[label]
    return f"Question: {row['text']}\nAnswer: {answer}."


def _small_talk(rng: random.Random, train_row: TrainRow) -> str:
    """The prompts' own words in places where they tell nothing."""
    name, thing, place = pick(rng, lex.NAMES), pick(rng, lex.THINGS), pick(rng, lex.PLACES)
    answer = pick(rng, ("Yes", "No", "Maybe"))
    return pick(
        rng,
        (
            f"Is {name} at the {place}? {answer} .",
            f"Is the {thing} of {name} in the {place}? Yes or No?\n{answer}.",
            f"Can we go to the {place}? Yes, No, or Maybe?\n{answer}.",
            f"{name} asked for the {thing} ? {answer} , it is in the {place}.",
            f"There was a {pick(rng, ('great', 'terrible', 'bad'))} noise in the {place}.",
            f"Type: {pick(rng, TREC_LABELS)}\nName: {capital(thing)}",
            f"Question: {pick(rng, TREC_SHORT)}\nType: {pick(rng, TREC_LABELS)}",
            f"{name} said: This is a {pick(rng, TREC_SHORT)} question.",
            f"The first {thing} was red and the second {thing} was {pick(rng, lex.COLORS)}.",
        ),
    )


KINDS_OF_TEXT = (
    (_review,) * 8
    + (_inference,) * 5
    + (_meaning, _passage) * 2
    + (_question,) * 2
    + (
        _pronoun,
        _pronoun,
        _story,
        _small_talk,
    )
)


def document(rng: random.Random, train_row: TrainRow) -> str:
    """One document; about two in five are reviews."""
    return pick(rng, KINDS_OF_TEXT)(rng, train_row)
