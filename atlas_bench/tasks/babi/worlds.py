"""Our own bAbI world simulator: the wording, the distributions and the rules of the real data.

Every world keeps the truth and, apart from it, what a reader can know; a question is asked only
when its answer follows from what was told. Weights are fitted to the real training files.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from atlas_bench.naming import nearest
from atlas_bench.tasks.babi.stories import (
    COUNTS,
    DOUBTFUL,
    DROPS,
    GETS,
    GIVERS,
    GIVES,
    MOVES,
    OBJECTS,
    PEOPLE,
    PLACES,
    TOWN,
    Query,
    Question,
    Statement,
    Story,
)

QUESTIONS_PER_STORY = 5
STATEMENTS_BETWEEN = 2  # a question may come after every second statement


@dataclass(frozen=True)
class Actions:
    """Odds of each kind of action while someone can do it, moves being 1, and who acts."""

    get: float = 0.0
    drop: float = 0.0
    give: float = 0.0
    people: tuple[str, ...] = PEOPLE
    get_there: float = 1.0  # share of "got the apple there"
    drop_there: float = 0.2
    ask: float = 1.0  # share of the places for a question that are used


ACTIONS = {
    "qa1": Actions(),
    "qa2": Actions(get=0.47, drop=0.55),
    "qa3": Actions(get=0.41, drop=0.75, get_there=0.2, ask=0.6),
    "qa5": Actions(get=0.52, drop=0.39, give=1.4, people=GIVERS, drop_there=0.17),
    "qa6": Actions(get=0.51, drop=0.38),
    "qa7": Actions(get=0.43, drop=0.31, give=1.1),
    "qa8": Actions(get=0.52, drop=0.47, drop_there=0.15),
}


@dataclass
class World:
    """People who move and carry objects; indices of statements are the supports of answers."""

    actions: Actions
    rng: random.Random
    place: dict[str, str] = field(default_factory=dict)
    lies: dict[str, str] = field(default_factory=dict)  # objects nobody holds
    holder: dict[str, str] = field(default_factory=dict)
    moved: dict[str, int] = field(default_factory=dict)  # last move; who has one has a known place
    told: int = 0
    touched: dict[str, int] = field(default_factory=dict)  # object: its last get, give or drop
    placed: dict[str, int] = field(default_factory=dict)  # object: the move that put it there
    path: dict[str, list[tuple[str, int]]] = field(default_factory=dict)  # known places, and moves
    history: dict[str, list[int]] = field(default_factory=dict)  # person: gets, drops and gives
    first_get: dict[tuple[str, str], int] = field(default_factory=dict)
    last_give: tuple[int, str, str, str] | None = None

    def __post_init__(self) -> None:
        for person in self.actions.people:
            self.place[person] = self.rng.choice(PLACES)
        for thing in OBJECTS:
            self.lies[thing] = self.rng.choice(PLACES)
            self.path[thing] = []

    def step(self) -> str:
        """One random valid action, as a sentence."""
        rng, actions = self.rng, self.actions
        people = actions.people
        gets = [(p, o) for p in people for o in OBJECTS if self.lies.get(o) == self.place[p]]
        drops = [(holder, o) for o, holder in self.holder.items()]
        gives = [
            (p, o, to) for p, o in drops for to in people
            if to != p and self.place[to] == self.place[p]
        ]  # fmt: skip
        weights = {
            "move": 1.0,
            "get": actions.get if gets else 0.0,
            "drop": actions.drop if drops else 0.0,
            "give": actions.give if gives else 0.0,
        }
        kind = rng.choices(list(weights), list(weights.values()))[0]
        if kind == "move":
            person = rng.choice(people)
            places = [place for place in PLACES if place != self.place[person]]
            sentence = self._move(person, rng.choice(places))
        elif kind == "get":
            sentence = self._get(*rng.choice(gets))
        elif kind == "drop":
            sentence = self._drop(*rng.choice(drops))
        else:
            sentence = self._give(*rng.choice(gives))
        self.told += 1
        return sentence

    def carried(self, person: str) -> list[str]:
        return [thing for thing in OBJECTS if self.holder.get(thing) == person]

    def _move(self, person: str, to: str) -> str:
        self.place[person] = to
        self.moved[person] = self.told
        for thing in self.carried(person):
            self._seen(thing, to, self.told)
        return f"{person} {self.rng.choice(MOVES)} the {to}."

    def _seen(self, thing: str, place: str, move: int) -> None:
        """A reader now knows that ``thing`` is at ``place``, from the statement ``move``."""
        self.placed[thing] = move
        if not self.path[thing] or self.path[thing][-1][0] != place:
            self.path[thing].append((place, move))

    def _touch(self, thing: str, person: str) -> None:
        self.touched[thing] = self.told
        self.history.setdefault(person, []).append(self.told)
        if person in self.moved:
            self._seen(thing, self.place[person], self.moved[person])

    def _get(self, person: str, thing: str) -> str:
        del self.lies[thing]
        self.holder[thing] = person
        self.first_get.setdefault((person, thing), self.told)
        self._touch(thing, person)
        there = " there" if self.rng.random() < self.actions.get_there else ""
        return f"{person} {self.rng.choice(GETS)} the {thing}{there}."

    def _drop(self, person: str, thing: str) -> str:
        del self.holder[thing]
        self.lies[thing] = self.place[person]
        self._touch(thing, person)
        there = " there" if self.rng.random() < self.actions.drop_there else ""
        return f"{person} {self.rng.choice(DROPS)} the {thing}{there}."

    def _give(self, person: str, thing: str, to: str) -> str:
        self.holder[thing] = to
        self.first_get.setdefault((to, thing), self.told)
        self._touch(thing, person)
        self._touch(thing, to)
        self.last_give = (self.told, person, thing, to)
        return f"{person} {self.rng.choice(GIVES)} the {thing} to {to}."


# questions: None where the one that was drawn has no answer yet ------------------------------


def _where_is_person(world: World) -> Query | None:
    person = world.rng.choice(sorted(world.moved)) if world.moved else None
    if person is None:
        return None
    return Query(f"Where is {person}? ", world.place[person], (world.moved[person],))


def _where_is_object(world: World) -> Query | None:
    thing = world.rng.choice(OBJECTS)
    if not world.path[thing]:
        return None
    supports = (world.touched[thing], world.placed[thing])
    return Query(f"Where is the {thing}? ", world.path[thing][-1][0], supports)


def _where_was_object(world: World) -> Query | None:
    thing = world.rng.choice(OBJECTS)
    path = world.path[thing]
    if len(path) < 2:
        return None
    place = world.rng.choice([place for place, _ in path[1:]])
    latest = max(i for i, (visited, _) in enumerate(path) if visited == place)
    if latest == 0:  # only its first known place: nothing is known of what was before
        return None
    supports = (world.touched[thing], path[latest][1], path[latest - 1][1])
    return Query(f"Where was the {thing} before the {place}? ", path[latest - 1][0], supports)


def _who_gave(world: World) -> Query | None:
    if world.last_give is None or world.told - world.last_give[0] > 6:
        return None
    told, giver, thing, receiver = world.last_give
    text, answer = world.rng.choices(
        [
            (f"What did {giver} give to {receiver}? ", thing),
            (f"Who gave the {thing}? ", giver),
            (f"Who did {giver} give the {thing} to? ", receiver),
            (f"Who received the {thing}? ", receiver),
            (f"Who gave the {thing} to {receiver}? ", giver),
        ],
        [36, 17, 16, 17, 14],
    )[0]
    return Query(text, answer, (told,))


def _is_person_in(world: World) -> Query | None:
    if not world.moved:
        return None
    person = world.rng.choice(sorted(world.moved))
    here = world.place[person]
    yes = world.rng.random() < 0.5
    asked = here if yes else world.rng.choice([place for place in PLACES if place != here])
    return Query(f"Is {person} in the {asked}? ", "yes" if yes else "no", (world.moved[person],))


def _how_many(world: World) -> Query | None:
    person = world.rng.choice(sorted(world.history)) if world.history else None
    if person is None:
        return None
    answer = COUNTS[len(world.carried(person))]
    return Query(f"How many objects is {person} carrying? ", answer, tuple(world.history[person]))


def _what_carried(world: World) -> Query | None:
    person = world.rng.choice(sorted(world.history)) if world.history else None
    if person is None:
        return None
    held = sorted(world.carried(person), key=lambda thing: world.first_get[person, thing])
    answer = ",".join(held) or "nothing"
    return Query(f"What is {person} carrying? ", answer, tuple(world.history[person]))


ASKS: dict[str, Callable[[World], Query | None]] = {
    "qa1": _where_is_person,
    "qa2": _where_is_object,
    "qa3": _where_was_object,
    "qa5": _who_gave,
    "qa6": _is_person_in,
    "qa7": _how_many,
    "qa8": _what_carried,
}


def _acted(subtask: str, rng: random.Random, questions: int) -> Story:
    """A story of people who act."""
    world = World(ACTIONS[subtask], rng)
    lines: list[Statement | Query] = []
    asked = 0
    while asked < questions:
        lines += [Statement(world.step()) for _ in range(STATEMENTS_BETWEEN)]
        query = ASKS[subtask](world) if rng.random() < world.actions.ask else None
        if query is not None:
            lines.append(query)
            asked += 1
    return Story(tuple(lines))


# told, not acted: qa4, qa9, qa10 ---------------------------------------------------------------

OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east"}


def _compass(rng: random.Random, questions: int) -> Story:
    """qa4: two statements about three places on one axis, one question; stories follow on."""
    lines: list[Statement | Query] = []
    for _ in range(questions):
        direction = rng.choice(list(OPPOSITE))  # first is `direction` of middle, middle of last
        first, middle, last = rng.sample(PLACES, 3)
        pairs = [(first, middle), (middle, last)]
        rng.shuffle(pairs)
        start = sum(isinstance(line, Statement) for line in lines)
        for upper, lower in pairs:
            one, way, other = rng.choice(
                [(upper, direction, lower), (lower, OPPOSITE[direction], upper)]
            )
            lines.append(Statement(f"The {one} is {way} of the {other}."))
        if rng.random() < 2 / 3:  # names the middle and asks for an end
            known, answer = middle, rng.choice((first, last))
        else:
            known, answer = rng.choice((first, last)), middle
        ends = {known, answer}
        support = start + next(i for i, pair in enumerate(pairs) if set(pair) == ends)
        above = (answer, known) in pairs
        if rng.random() < 0.5:
            way = direction if above else OPPOSITE[direction]
            text = f"What is {way} of the {known}?"
        else:
            way = OPPOSITE[direction] if above else direction
            text = f"What is the {known} {way} of?"
        lines.append(Query(text, answer, (support,)))
    return Story(tuple(lines))


def _claimed(subtask: str, rng: random.Random, questions: int) -> Story:
    """qa9 (negation) and qa10 (doubt): each statement replaces what was said of its person."""
    people, places = (PEOPLE, PLACES) if subtask == "qa9" else (DOUBTFUL, TOWN)
    said: dict[str, tuple[str, tuple[str, ...], int]] = {}
    lines: list[Statement | Query] = []
    told = 0
    for _ in range(questions):
        for _ in range(STATEMENTS_BETWEEN):
            person = rng.choice(people)
            before = said[person][1] if person in said and said[person][0] == "at" else ()
            kind, named, text = _claim(subtask, person, places, before, rng)
            said[person] = (kind, named, told)
            lines.append(Statement(text))
            told += 1
        lines.append(_is_claimed(said, places, rng))
    return Story(tuple(lines))


def _claim(
    subtask: str, person: str, places: tuple[str, ...], before: tuple[str, ...], rng: random.Random
) -> tuple[str, tuple[str, ...], str]:
    """(at | not | either, the places named, the sentence)."""
    kinds = {"move": 50, "is": 24, "longer": 13, "not": 13} if subtask == "qa9" else {
        "move": 50, "is": 26, "either": 24,
    }  # fmt: skip
    kind = rng.choices(list(kinds), list(kinds.values()))[0]
    if kind == "either":
        two = tuple(rng.sample(places, 2))
        return "either", two, f"{person} is either in the {two[0]} or the {two[1]}."
    if kind == "move":
        place = rng.choice([place for place in places if place not in before])
        return "at", (place,), f"{person} {rng.choice(MOVES)} the {place}."
    place = rng.choice(places)
    words = {"is": "is in", "longer": "is no longer in", "not": "is not in"}[kind]
    return "at" if kind == "is" else "not", (place,), f"{person} {words} the {place}."


def _is_claimed(
    said: dict[str, tuple[str, tuple[str, ...], int]], places: tuple[str, ...], rng: random.Random
) -> Query:
    person = rng.choice(sorted(said))
    kind, named, told = said[person]
    if kind == "not":
        place, answer = named[0], "no"
    else:
        inside = rng.random() < 0.5
        place = rng.choice(named if inside else [p for p in places if p not in named])
        answer = "no" if not inside else "yes" if kind == "at" else "maybe"
    return Query(f"Is {person} in the {place}? ", answer, (told,))


MAKERS: dict[str, Callable[[random.Random, int], Story]] = {
    **{name: partial(_acted, name) for name in ACTIONS},
    "qa4": _compass,
    "qa9": partial(_claimed, "qa9"),
    "qa10": partial(_claimed, "qa10"),
}
SUBTASKS = tuple(sorted(MAKERS, key=lambda name: int(name[2:])))


def generate_story(subtask: str, rng: random.Random, *, questions: int | None = None) -> Story:
    """A story with as many questions as the data's (5; qa4: 1), or with ``questions``.

    Decided by ``rng`` alone. Raises ValueError for a subtask that is not built.
    """
    check_subtask(subtask)
    default = 1 if subtask == "qa4" else QUESTIONS_PER_STORY
    return MAKERS[subtask](rng, default if questions is None else questions)


def generate_questions(subtask: str, rng: random.Random) -> Iterator[Question]:
    """The questions of story after story, without end."""
    while True:
        yield from generate_story(subtask, rng).questions()


def check_subtask(subtask: str) -> None:
    if subtask not in SUBTASKS:
        raise ValueError(
            f"{subtask} is not one of {', '.join(SUBTASKS)}{nearest(subtask, SUBTASKS)}"
        )


def wording(subtask: str) -> list[str]:
    """Sentences with every name, place, object, verb and question form of the subtask."""
    rng = random.Random(f"wording {subtask}")  # seeded by text: alike on every machine
    story = generate_story(subtask, rng, questions=200)
    sentences = [line.text.strip() for line in story.lines]
    answers = [line.answer for line in story.lines if isinstance(line, Query)]
    return list(dict.fromkeys(sentences + answers))
