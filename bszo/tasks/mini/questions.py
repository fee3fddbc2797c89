"""Makers of WinoGrande, MultiRC and SQuAD rows: (rng, label) -> the hub's columns, less the
label."""

import random
from typing import NamedTuple

from bszo.tasks.mini import lexicon as lex
from bszo.tasks.mini.rows import Row, a, capital, pick, three, two


def winogrande(rng: random.Random, label: int) -> Row:
    """A gap for one of two things or names, told apart by what fits; the options stand in either
    order."""
    meant = pick(rng, (0, 1))
    if rng.random() < 0.5:
        opening, *endings = pick(rng, lex.PRONOUN_THINGS)
        names = two(rng, lex.THINGS)
        opening = opening.replace("because it", "because the _")
    else:
        opening, *endings = pick(rng, lex.PRONOUN_PEOPLE)
        names = two(rng, lex.NAMES)
    before = (
        f"{pick(rng, lex.TIMES)} the {pick(rng, lex.ROLES)} told us this. "
        if rng.random() < 0.5
        else ""
    )
    text = opening.format(a=names[0], b=names[1], he="_") + pick(rng, endings[meant])
    first, second = names if label == meant else reversed(names)
    return {"sentence": f"{before}{text}.", "option1": first, "option2": second}


class Fact(NamedTuple):
    """What a passage says of a person, as a question; the first answer is a span of the passage."""

    question: str
    answers: tuple[str, ...]
    wrong: str


def _passage(rng: random.Random) -> tuple[str, str, list[Fact]]:
    """A person's trade, a passage about them, and what may be asked of it."""
    role, friend, stranger = three(rng, lex.ROLES)
    home, work, shunned = three(rng, lex.PLACES)
    thing, missing = two(rng, lex.THINGS)
    color, elsewhere = two(rng, lex.COLORS)
    sentences = [
        f"The {role} lives near the {home}.",
        f"The {role} has {a(color)} {thing}, but not {a(f'{elsewhere} {missing}')}.",
        f"The {role} often goes to the {work} and never to the {shunned}.",
        f"The {friend} is a friend of the {role}, but the {stranger} is not.",
    ]
    facts = [
        Fact(
            f"Where does the {role} live?", (f"near the {home}", f"the {home}"), f"near the {work}"
        ),
        Fact(
            f"What does the {role} have?",
            (f"{a(color)} {thing}", thing),
            f"{a(elsewhere)} {missing}",
        ),
        Fact(f"What color is the {thing} of the {role}?", (color,), elsewhere),
        Fact(
            f"Where does the {role} often go?",
            (f"to the {work}", f"the {work}"),
            f"to the {shunned}",
        ),
        Fact(f"Who is a friend of the {role}?", (f"The {friend}", friend), f"The {stranger}"),
    ]
    start = int(rng.random() * len(sentences))
    return capital(role), " ".join(sentences[start:] + sentences[:start]), facts


def multirc(rng: random.Random, label: int) -> Row:
    """One answer to one question on a passage; both answers are words of the passage."""
    _, paragraph, facts = _passage(rng)
    fact = pick(rng, facts)
    return {
        "paragraph": paragraph,
        "question": fact.question,
        "answer": fact.answers[0] if label else fact.wrong,
    }


def squad(rng: random.Random, label: int) -> Row:
    """A question whose answer is a span of the context; there is one label."""
    title, context, facts = _passage(rng)
    fact = pick(rng, facts)
    starts = [context.index(answer) for answer in fact.answers]
    return {
        "id": f"{int(rng.random() * 16**12):012x}",
        "title": title,
        "context": context,
        "question": fact.question,
        "answers": {"text": list(fact.answers), "answer_start": starts},
    }
