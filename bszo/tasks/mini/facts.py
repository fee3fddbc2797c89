"""Makers of RTE, TREC and BoolQ rows, on who did what where: (rng, label) -> the hub's columns,
less the label."""

import random

from bszo.tasks.mini import lexicon as lex
from bszo.tasks.mini.rows import Row, a, capital, pick, three, two

HIDDEN = tuple(lex.KINDS)


def _event(rng: random.Random) -> dict[str, str]:
    who, other = two(rng, lex.NAMES)
    place, elsewhere = two(rng, lex.PLACES)
    (base, past), (_, otherwise) = two(rng, lex.VERBS)
    thing, color = pick(rng, HIDDEN), pick(rng, lex.COLORS)
    stranger = pick(rng, [word for word in HIDDEN if lex.KINDS[word] != lex.KINDS[thing]])
    return {
        "who": who,
        "other": other,
        "place": place,
        "elsewhere": elsewhere,
        "base": base,
        "past": past,
        "otherwise": otherwise,
        "thing": a(thing),
        "bare": thing,
        "color": color,
        "kind": a(lex.KINDS[thing]),
        "stranger": a(stranger),
        "time": pick(rng, lex.TIMES),
    }


ENTAILED = (
    ("{who} {past} {a_color} {bare} at the {place}.", "{who} {past} {thing}."),
    ("{time} {who} {past} {thing} and went to the {place}.", "{who} {past} {kind}."),
    ("{who} and {other} {past} {thing} at the {place}.", "{other} was at the {place}."),
    ("{time} {who} went to the {place} and {past} {thing}.", "{who} went to the {place}."),
    (
        "At the {place} {who} managed to {base} {thing}, but {other} did not.",
        "{who} {past} {thing}.",
    ),
    ("{who} did not {base} {kind} at the {place}.", "{who} did not {base} {thing} at the {place}."),
    ("{time} {who} forgot to {base} {thing} for {other}.", "{who} did not {base} {thing}."),
    (
        "{who} came to the {place}, but {other} never {past} {thing}.",
        "{other} did not {base} {thing}.",
    ),
)
NOT_ENTAILED = (
    ("{who} {past} {a_color} {bare} at the {place}.", "{who} {past} {stranger}."),
    ("{time} {who} {past} {kind} and went to the {place}.", "{who} did not {base} {thing}."),
    ("{who} and {other} {past} {thing} at the {place}.", "{other} was at the {elsewhere}."),
    ("{time} {who} planned to go to the {place} and {base} {thing}.", "{who} went to the {place}."),
    (
        "At the {place} {who} wanted to {base} {thing}, but {other} did not.",
        "{who} {past} {thing}.",
    ),
    ("{who} did not {base} {thing} at the {place}.", "{who} {past} {thing} at the {place}."),
    ("{time} {who} forgot to {base} {thing} for {other}.", "{who} {past} {thing}."),
    (
        "{who} came to the {place}, and {other} never {past} {thing}.",
        "{other} {otherwise} {thing}.",
    ),
)


def rte(rng: random.Random, label: int) -> Row:
    """0 entailment, 1 not. Each trap has a twin on the other side: negation, wishes, kinds, other
    places."""
    event = _event(rng)
    event["a_color"] = a(event["color"])
    premise, hypothesis = pick(rng, NOT_ENTAILED if label else ENTAILED)
    after = (
        f" It was {pick(rng, ('late', 'early', 'cold', 'warm'))} in the {pick(rng, lex.PLACES)}."
    )
    return {
        "premise": premise.format(**event) + (after if rng.random() < 0.3 else ""),
        "hypothesis": hypothesis.format(**event),
    }


QUESTIONS = (
    (
        "What does {form} stand for {about} ?",
        "What is {form} short for {about} ?",
        "What is the full form of {form} {about} ?",
        "What do the letters {form} mean {about} ?",
        "What is the short form of the name of the {role} {about} ?",
    ),
    (
        "What {kind} did the {role} {base} {at} ?",
        "What color is the {thing} {about} ?",
        "What is the best {kind} {at} ?",
        "Which {kind} did {name} {base} {at} ?",
        "What game did {name} and the {role} play {at} ?",
    ),
    (
        "What is a {thing} {about} ?",
        "Why did {name} {base} the {thing} {at} ?",
        "How do you {base} a {thing} {at} ?",
        "What does the word {thing} mean {about} ?",
        "What is the story of the {role} and the {thing} ?",
    ),
    (
        "Who did {name} see {at} ?",
        "Who {past} the {thing} {at} ?",
        "What is the name of the {role} {at} ?",
        "Which {role} {past} the {thing} {at} ?",
        "What {role} wrote the {topic} about {name} ?",
    ),
    (
        "Where did {name} {base} the {thing} ?",
        "What is the name of the village of the {role} {about} ?",
        "What town does the {role} come from {about} ?",
        "Which city is famous for the {thing} {about} ?",
        "In what country can you {base} a {thing} {about} ?",
    ),
    (
        "How many {role}s came to the {place} {about} ?",
        "What year did the {role} {base} the {thing} ?",
        "How far is the {place} from the house of {name} ?",
        "How much does the {thing} cost {at} ?",
        "How old is the {role} {about} ?",
    ),
)


def trec(rng: random.Random, label: int) -> Row:
    """Six kinds of questions; "what" opens every kind, and names of things stand in all of them."""
    place, thing = pick(rng, lex.PLACES), pick(rng, lex.THINGS)
    base, past = pick(rng, lex.VERBS)
    about = f"in the {pick(rng, lex.FORM_TOPICS)} about the {pick(rng, lex.THINGS)}"
    about = about if rng.random() < 0.8 else ""
    text = pick(rng, QUESTIONS[label]).format(
        form=pick(rng, lex.SHORT_FORMS),
        about=about,
        role=pick(rng, lex.ROLES),
        name=pick(rng, lex.NAMES),
        kind=pick(rng, ("animal", "flower", "fruit", "tool")),
        base=base,
        past=past,
        thing=thing,
        place=place,
        at=f"at the {place}" if rng.random() < 0.7 else about,
        topic=pick(rng, lex.FORM_TOPICS),
    )
    return {"text": " ".join(text.split())}


def _portrait(rng: random.Random) -> tuple[str, list[str], list[str]]:
    """A passage about one person of a trade, with questions that it answers with yes and others
    with no."""
    role, friend = two(rng, lex.ROLES)
    home, work, shunned = three(rng, lex.PLACES)
    thing, missing = two(rng, lex.THINGS)
    color, wrong = two(rng, lex.COLORS)
    sentences = [
        f"The {role} lives near the {home}.",
        f"The {role} has {a(color)} {thing}, but not {a(missing)}.",
        f"The {role} often goes to the {work} and never to the {shunned}.",
        f"The {friend} is a friend of the {role}.",
    ]
    yes = [
        f"does the {role} live near the {home}",
        f"does the {role} have {a(thing)}",
        f"is the {thing} {color}",
        f"is the {friend} a friend of the {role}",
        f"does the {role} often go to the {work}",
    ]
    no = [
        f"does the {role} live near the {work}",
        f"does the {role} have {a(missing)}",
        f"is the {thing} {wrong}",
        f"is the {role} no friend of the {friend}",
        f"does the {role} often go to the {shunned}",
    ]
    start = int(rng.random() * len(sentences))
    return f"{capital(role)} -- " + " ".join(sentences[start:] + sentences[:start]), yes, no


def boolq(rng: random.Random, label: int) -> Row:
    passage, yes, no = _portrait(rng)
    return {"question": pick(rng, yes if label else no), "passage": passage}
