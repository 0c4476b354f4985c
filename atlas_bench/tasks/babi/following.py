"""Stories of people who move: by pronouns (qa11, qa13), together (qa12, qa13), out of order (qa14).

Rules and numbers are measured on the real training files.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass

from atlas_bench.tasks.babi.acting import REACH, STATEMENTS_BETWEEN
from atlas_bench.tasks.babi.stories import (
    DOUBTFUL,
    HE,
    MOVES,
    NEXT,
    PEOPLE,
    PLACES,
    TIMES,
    TOWN,
    Query,
    Statement,
    Story,
)


@dataclass(frozen=True)
class Walks:
    """How many people move at a time, and whether a pronoun tells their next move."""

    people: int
    pronoun: bool


WALKS = {"qa11": Walks(1, True), "qa12": Walks(2, False), "qa13": Walks(2, True)}


def walked(subtask: str, rng: random.Random, questions: int) -> Story:
    """qa11 to qa13: two statements, then where somebody is who moved in one of the last five moves;
    a statement about two people counts as two moves, the second named person's being the later."""
    walks = WALKS[subtask]
    place: dict[str, str] = {}
    supports: dict[str, tuple[int, ...]] = {}
    recent: deque[str] = deque(maxlen=REACH)
    lines: list[Statement | Query] = []
    told = 0
    for _ in range(questions):
        who: list[str] = []
        for number in range(STATEMENTS_BETWEEN):
            follows = walks.pronoun and number > 0
            if not follows:
                who = rng.sample(PEOPLE, walks.people)
            here = {place.get(person) for person in who}
            to = rng.choice([other for other in PLACES if other not in here])
            subject = f"{rng.choice(NEXT)} {_pronoun(who)}" if follows else " and ".join(who)
            lines.append(Statement(f"{subject} {rng.choice(MOVES)} the {to}."))
            for person in who:
                place[person] = to
                supports[person] = (*supports[person], told) if follows else (told,)
            recent.extend(who)
            told += 1
        asked = rng.choice(recent)
        lines.append(Query(f"Where is {asked}? ", place[asked], supports[asked]))
    return Story(tuple(lines))


def _pronoun(people: list[str]) -> str:
    if len(people) > 1:
        return "they"
    return "he" if people[0] in HE else "she"


@dataclass(frozen=True)
class Visit:
    """Somebody's place at one time of the day."""

    person: str
    time: int
    place: str


QUESTIONS_ABOUT_A_DAY = 5


def day(rng: random.Random) -> Story:
    """qa14: everybody goes through the day, one place at each time; what happened between two
    questions is told out of order. Asked is about one of the last five visits."""
    days: dict[str, list[Visit]] = {person: [] for person in DOUBTFUL}
    recent: deque[Visit] = deque(maxlen=REACH)
    number_of: dict[Visit, int] = {}  # number of the statement that tells it
    lines: list[Statement | Query] = []
    untold: list[Visit] = []
    asked = 0
    while asked < QUESTIONS_ABOUT_A_DAY:
        for _ in range(STATEMENTS_BETWEEN):
            visit = _next_visit(days, rng)
            days[visit.person].append(visit)
            recent.append(visit)
            untold.append(visit)
        second = [visit for visit in recent if visit.time > 0]
        if not second:
            continue
        for visit in _out_of_place(untold, rng):
            number_of[visit] = len(number_of)
            lines.append(Statement(_telling(visit, rng)))
        untold = []
        lines.append(_where_before(rng.choice(second), days, number_of))
        asked += 1
    return Story(tuple(lines))


def _next_visit(days: dict[str, list[Visit]], rng: random.Random) -> Visit:
    """Drawn until one is possible: the day has not ended, and the place is another."""
    while True:
        person, place = rng.choice(DOUBTFUL), rng.choice(TOWN)
        visits = days[person]
        if len(visits) < len(TIMES) and not (visits and visits[-1].place == place):
            return Visit(person, len(visits), place)


def _out_of_place(visits: list[Visit], rng: random.Random) -> list[Visit]:
    """In another order, each at another place than its own: two are always exchanged."""
    order = list(visits)
    while any(one is other for one, other in zip(order, visits, strict=True)):
        rng.shuffle(order)
    return order


def _telling(visit: Visit, rng: random.Random) -> str:
    time, move = TIMES[visit.time], rng.choice(MOVES)
    if rng.random() < 0.5:
        return f"{time.capitalize()} {visit.person} {move} the {visit.place}."
    return f"{visit.person} {move} the {visit.place} {time}."


def _where_before(visit: Visit, days: dict[str, list[Visit]], number_of: dict[Visit, int]) -> Query:
    """Of two visits to one place the later is meant."""
    visits = days[visit.person]
    latest = max(other.time for other in visits if other.place == visit.place)
    after, before = visits[latest], visits[latest - 1]
    return Query(
        f"Where was {visit.person} before the {visit.place}? ",
        before.place,
        (number_of[after], number_of[before]),
    )
