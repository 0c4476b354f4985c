"""Stories that tell a state instead of actions: qa4 (compass), qa9 (negation), qa10 (doubt).

Rules and numbers are measured on the real training files.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from atlas_bench.tasks.babi.acting import REACH, STATEMENTS_BETWEEN
from atlas_bench.tasks.babi.stories import (
    DOUBTFUL,
    MOVES,
    PEOPLE,
    PLACES,
    TOWN,
    Query,
    Statement,
    Story,
)

OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east"}
NAMES_MIDDLE = 2 / 3  # share of statements and of questions that have the middle place as theirs


def compass(rng: random.Random) -> Story:
    """qa4: two statements about three places on one axis, and one question."""
    direction = rng.choice(list(OPPOSITE))  # first is `direction` of middle, middle of last
    first, middle, last = rng.sample(PLACES, 3)
    pairs = [(first, middle), (middle, last)]
    rng.shuffle(pairs)
    lines: list[Statement | Query] = []
    for upper, lower in pairs:
        if (rng.random() < NAMES_MIDDLE) == (lower == middle):
            lines.append(Statement(f"The {upper} is {direction} of the {lower}."))
        else:
            lines.append(Statement(f"The {lower} is {OPPOSITE[direction]} of the {upper}."))
    end = rng.choice((first, last))
    known, answer = (middle, end) if rng.random() < NAMES_MIDDLE else (end, middle)
    upper, lower = pair = (first, middle) if end == first else (middle, last)
    way = direction if answer == upper else OPPOSITE[direction]
    if rng.random() < 0.5:
        text = f"What is {way} of the {known}?"
    else:
        text = f"What is the {known} {OPPOSITE[way]} of?"
    return Story((*lines, Query(text, answer, (pairs.index(pair),))))


@dataclass(frozen=True)
class Claims:
    """Odds of the kinds of statement, and who is said to be where."""

    kinds: dict[str, int]
    people: tuple[str, ...]
    places: tuple[str, ...]
    ask_true: float  # how often the question names the person's true place


CLAIMS = {
    "qa9": Claims(
        {"went to": 50, "is in": 24, "is no longer in": 13, "is not in": 13}, PEOPLE, PLACES, 0.5
    ),
    "qa10": Claims({"went to": 50, "is in": 26, "is either in": 24}, DOUBTFUL, TOWN, 0.53),
}
NEGATIONS = frozenset(("is no longer in", "is not in"))


def claimed(subtask: str, rng: random.Random, questions: int) -> Story:
    """qa9 and qa10. Behind each statement its person goes to another place, told or hidden:
    a negation names the place just left, "either" the new place and a random one."""
    claims = CLAIMS[subtask]
    place = {person: rng.choice(claims.places) for person in claims.people}
    said: dict[str, tuple[str, tuple[str, ...], int]] = {}  # kind, the places named, statement
    lines: list[Statement | Query] = []
    tellings: list[str] = []  # who each statement is about
    for _ in range(questions):
        for _ in range(STATEMENTS_BETWEEN):
            person = rng.choice(claims.people)
            left = place[person]
            place[person] = rng.choice([other for other in claims.places if other != left])
            kind, named, text = _claim(claims, person, left, place[person], rng)
            said[person] = (kind, named, len(tellings))
            tellings.append(person)
            lines.append(Statement(text))
        person = rng.choice(tellings[-REACH:])
        kind, named, told = said[person]
        asked, answer = _asked_place(claims, kind, named, place[person], rng)
        lines.append(Query(f"Is {person} in the {asked}? ", answer, (told,)))
    return Story(tuple(lines))


def _claim(
    claims: Claims, person: str, left: str, reached: str, rng: random.Random
) -> tuple[str, tuple[str, ...], str]:
    """(kind, the places named, the sentence)."""
    kind = rng.choices(list(claims.kinds), list(claims.kinds.values()))[0]
    if kind == "is either in":
        # the data draws the second place from all: one in six says "the park or the park"
        two = [reached, rng.choice(claims.places)]
        rng.shuffle(two)
        return kind, tuple(two), f"{person} is either in the {two[0]} or the {two[1]}."
    place = left if kind in NEGATIONS else reached
    words = rng.choice(MOVES) if kind == "went to" else kind
    return kind, (place,), f"{person} {words} the {place}."


def _asked_place(
    claims: Claims, kind: str, named: tuple[str, ...], true: str, rng: random.Random
) -> tuple[str, str]:
    """The place a question names, and the answer; after a negation always the place negated."""
    if kind in NEGATIONS:
        return named[0], "no"
    others = [place for place in claims.places if place != true]
    asked = true if rng.random() < claims.ask_true else rng.choice(others)
    if asked not in named:
        return asked, "no"
    return asked, "maybe" if kind == "is either in" else "yes"
