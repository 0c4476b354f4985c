"""The world of qa1-3 and qa5-8: people move, and take, drop and give objects.

Rules and numbers are measured on the real training files. An action is drawn, person and kind
alike likely, until one is possible. After every second statement a question is asked whenever
one of the last five statements can be asked about (5 exceptions in 16,755 places, all in qa3).
"""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from atlas_bench.tasks.babi.stories import (
    COUNTS,
    DROPS,
    GETS,
    GIVERS,
    GIVES,
    MOVES,
    OBJECTS,
    PEOPLE,
    PLACES,
    Query,
    Statement,
    Story,
)

STATEMENTS_BETWEEN = 2  # a question may come after every second statement
REACH = 5  # how many of the last statements a question may be about
HANDLING = frozenset(("get", "drop", "give"))


@dataclass(frozen=True)
class Actions:
    """Odds with which a kind of action is tried, moves being 1, and who acts."""

    get: float = 0.0
    drop: float = 0.0
    give: float = 0.0
    people: tuple[str, ...] = PEOPLE
    get_there: float = 1.0  # share of "got the apple there"
    drop_there: float = 0.2


ACTIONS = {
    "qa1": Actions(),
    "qa2": Actions(get=1, drop=1),
    "qa3": Actions(get=1, drop=1, get_there=0.2),
    "qa5": Actions(get=1.1, drop=1, give=4.2, people=GIVERS, drop_there=0.17),
    "qa6": Actions(get=1, drop=1),
    "qa7": Actions(get=1, drop=1, give=4, drop_there=0.22),
    "qa8": Actions(get=1.07, drop=1.1, drop_there=0.15),
}


@dataclass(frozen=True)
class Event:
    """What a statement tells: who did what, with which object, to whom."""

    kind: str
    person: str
    thing: str = ""
    receiver: str = ""


@dataclass
class World:
    """The truth, and what a reader knows of it. Statements are known by their index."""

    actions: Actions
    rng: random.Random
    place: dict[str, str] = field(default_factory=dict)
    lies: dict[str, str] = field(default_factory=dict)  # objects nobody holds
    holder: dict[str, str] = field(default_factory=dict)
    told: int = 0
    recent: deque[Event] = field(default_factory=lambda: deque(maxlen=REACH))
    moved: dict[str, int] = field(default_factory=dict)  # last move; without one, place unknown
    touched: dict[str, int] = field(default_factory=dict)  # object: its last get, give or drop
    # object: each place its last holder brought it to, and the move that did
    carried_to: dict[str, list[tuple[str, int]]] = field(default_factory=dict)
    # object: the move that tells where it is, once it has moved since it was taken
    placed_by: dict[str, int] = field(default_factory=dict)
    # person: gets, drops and gives, with the object of each
    history: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    last_give: tuple[int, Event] | None = None

    def __post_init__(self) -> None:
        for person in self.actions.people:
            self.place[person] = self.rng.choice(PLACES)
        for thing in OBJECTS:
            self.lies[thing] = self.rng.choice(PLACES)
        odds = (1.0, self.actions.get, self.actions.drop, self.actions.give)
        self._cumulative = tuple(itertools.accumulate(odds))

    def step(self) -> str:
        """One random possible action, as a sentence."""
        tries = (self._move, self._get, self._drop, self._give)
        while True:
            person = self.rng.choice(self.actions.people)
            found = self.rng.choices(tries, cum_weights=self._cumulative)[0](person)
            if found is not None:
                break
        sentence, event = found
        self.recent.append(event)
        self.told += 1
        return sentence

    def carried(self, person: str) -> list[str]:
        return [thing for thing in OBJECTS if self.holder.get(thing) == person]

    def handled(self, person: str) -> list[str]:
        """Objects a person has had, in the order of their first pick-ups."""
        return list(dict.fromkeys(thing for _, thing in self.history[person]))

    # Each action gives None where it is not possible, and is then drawn anew.

    def _move(self, person: str) -> tuple[str, Event] | None:
        to = self.rng.choice(PLACES)
        if to == self.place[person]:
            return None
        self.place[person] = to
        self.moved[person] = self.told
        for thing in self.carried(person):
            self.placed_by[thing] = self.told
            self.carried_to[thing].append((to, self.told))
        return f"{person} {self.rng.choice(MOVES)} the {to}.", Event("move", person)

    def _get(self, person: str) -> tuple[str, Event] | None:
        here = [thing for thing in OBJECTS if self.lies.get(thing) == self.place[person]]
        if not here:
            return None
        thing = self.rng.choice(here)
        del self.lies[thing]
        self._take(person, thing)
        there = self._there(self.actions.get_there)
        return f"{person} {self.rng.choice(GETS)} the {thing}{there}.", Event("get", person, thing)

    def _drop(self, person: str) -> tuple[str, Event] | None:
        held = self.carried(person)
        if not held:
            return None
        thing = self.rng.choice(held)
        del self.holder[thing]
        self.lies[thing] = self.place[person]
        if person in self.moved:
            self.placed_by[thing] = self.moved[person]
        self._touch(person, thing)
        there = self._there(self.actions.drop_there)
        sentence = f"{person} {self.rng.choice(DROPS)} the {thing}{there}."
        return sentence, Event("drop", person, thing)

    def _give(self, person: str) -> tuple[str, Event] | None:
        held = self.carried(person)
        near = [
            other
            for other in self.actions.people
            if other != person and self.place[other] == self.place[person]
        ]
        if not held or not near:
            return None
        thing, receiver = self.rng.choice(held), self.rng.choice(near)
        event = Event("give", person, thing, receiver)
        self.last_give = (self.told, event)
        self._touch(person, thing)
        self._take(receiver, thing)
        return f"{person} {self.rng.choice(GIVES)} the {thing} to {receiver}.", event

    def _there(self, share: float) -> str:
        return " there" if self.rng.random() < share else ""

    def _take(self, person: str, thing: str) -> None:
        self.holder[thing] = person
        self.carried_to[thing] = []
        self.placed_by.pop(thing, None)
        self._touch(person, thing)

    def _touch(self, person: str, thing: str) -> None:
        self.touched[thing] = self.told
        self.history.setdefault(person, []).append((self.told, thing))


# questions: None where the last statements allow none ----------------------------------------


def _doer(world: World, kinds: Collection[str]) -> str | None:
    """Who did one of the last actions of these kinds; a person who did more is likelier."""
    doers = [event.person for event in world.recent if event.kind in kinds]
    return world.rng.choice(doers) if doers else None


def _thing(world: World, fits: Callable[[str], bool]) -> str | None:
    """The object of one of the last actions, if one ``fits``."""
    things = [event.thing for event in world.recent if event.thing and fits(event.thing)]
    return world.rng.choice(things) if things else None


def _where_is_person(world: World) -> Query | None:
    person = _doer(world, ("move",))
    if person is None:
        return None
    return Query(f"Where is {person}? ", world.place[person], (world.moved[person],))


def _where_is_object(world: World) -> Query | None:
    thing = _thing(world, world.placed_by.__contains__)
    if thing is None:
        return None
    place = world.lies[thing] if thing in world.lies else world.place[world.holder[thing]]
    supports = (world.touched[thing], world.placed_by[thing])
    return Query(f"Where is the {thing}? ", place, supports)


def _where_was_object(world: World) -> Query | None:
    """Asked about places to which one person carried the object, the last who had it."""
    thing = _thing(world, lambda thing: len(world.carried_to[thing]) > 1)
    if thing is None:
        return None
    path = world.carried_to[thing]
    place = world.rng.choice(path[1:])[0]
    latest = max(i for i, (visited, _) in enumerate(path) if visited == place)
    answer, before = path[latest - 1]
    supports = (world.touched[thing], path[latest][1], before)
    return Query(f"Where was the {thing} before the {place}? ", answer, supports)


def _who_gave(world: World) -> Query | None:
    if world.last_give is None or world.told - world.last_give[0] > REACH:
        return None
    told, give = world.last_give
    giver, thing, receiver = give.person, give.thing, give.receiver
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
    person = _doer(world, ("move",))
    if person is None:
        return None
    here = world.place[person]
    yes = world.rng.random() < 0.5
    asked = here if yes else world.rng.choice([place for place in PLACES if place != here])
    return Query(f"Is {person} in the {asked}? ", "yes" if yes else "no", (world.moved[person],))


def _how_many(world: World) -> Query | None:
    person = _doer(world, HANDLING)
    if person is None:
        return None
    answer = COUNTS[len(world.carried(person))]
    supports = tuple(told for told, _ in world.history[person])
    return Query(f"How many objects is {person} carrying? ", answer, supports)


def _what_carried(world: World) -> Query | None:
    """Here the data lists the supports object by object."""
    person = _doer(world, HANDLING)
    if person is None:
        return None
    things = world.handled(person)
    held = world.carried(person)
    answer = ",".join(thing for thing in things if thing in held) or "nothing"
    history = sorted(world.history[person], key=lambda entry: things.index(entry[1]))
    return Query(f"What is {person} carrying? ", answer, tuple(told for told, _ in history))


ASKS: dict[str, Callable[[World], Query | None]] = {
    "qa1": _where_is_person,
    "qa2": _where_is_object,
    "qa3": _where_was_object,
    "qa5": _who_gave,
    "qa6": _is_person_in,
    "qa7": _how_many,
    "qa8": _what_carried,
}


def acted(subtask: str, rng: random.Random, questions: int) -> Story:
    """A story of people who act; it ends with its last question."""
    world = World(ACTIONS[subtask], rng)
    lines: list[Statement | Query] = []
    asked = 0
    while asked < questions:
        lines += [Statement(world.step()) for _ in range(STATEMENTS_BETWEEN)]
        query = ASKS[subtask](world)
        if query is not None:
            lines.append(query)
            asked += 1
    return Story(tuple(lines))
