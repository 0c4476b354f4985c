"""The questions that the statements of a bAbI world can answer at any moment.

A published story asks at a fixed rhythm, mostly about what just happened. A training stream should
also ask about facts far back. For the tasks of moving people and objects these readers follow the
statements and list every question whose answer is known (rules: bAbI v1.2 as published).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Protocol

from atlas_bench.tasks.babi.sentences import parse

# qa3: the chance, applied repeatedly, of a question about one place earlier in the journey. 79 % of
# the published questions are about the object's present place, 16 % about the one before, 5 % about
# older ones.
_EARLIER_PLACE = 0.25
_EARLIER_GIFT = 0.25  # qa5: the same for gifts; the published questions are about the last one

QuestionAnswer = tuple[str, str]


class Asker(Protocol):
    """Reads statements in order and lists the possible questions after the last one."""

    def read(self, statement: str) -> None:
        """Read the next statement of the world."""

    def candidates(self, rng: random.Random) -> list[QuestionAnswer]:
        """Questions with known answers, at least one for each subject with a known answer."""


class _People:
    """The last known places of people."""

    def __init__(self, places: tuple[str, ...]) -> None:
        self.places = places
        self.place_of: dict[str, str] = {}

    def read(self, statement: str) -> None:
        kind, person, where, *_ = parse(statement)
        if kind == "move":
            self.place_of[person] = where

    def _elsewhere(self, place: str, rng: random.Random) -> str:
        return rng.choice([other for other in self.places if other != place])


class WherePerson(_People):
    """qa1: ``Where is P?``"""

    def candidates(self, rng: random.Random) -> list[QuestionAnswer]:
        return [(f"Where is {person}?", place) for person, place in self.place_of.items()]


class WhereFollowed(WherePerson):
    """qa11 to qa13: the same, with people who move together and pronouns for them."""

    def __init__(self, places: tuple[str, ...]) -> None:
        super().__init__(places)
        self.named: tuple[str, ...] = ()  # the people whom a pronoun means

    def read(self, statement: str) -> None:
        kind, *people, place = parse(statement)
        if kind != "move on":
            self.named = tuple(people)
        self.place_of |= dict.fromkeys(self.named, place)


class IsPersonIn(_People):
    """qa6: ``Is P in the L?``, yes and no equally often."""

    def candidates(self, rng: random.Random) -> list[QuestionAnswer]:
        questions = []
        for person, place in self.place_of.items():
            yes = rng.random() < 0.5
            asked = place if yes else self._elsewhere(place, rng)
            questions.append((f"Is {person} in the {asked}?", "yes" if yes else "no"))
        return questions


class IsPersonInNegated(_People):
    """qa9: as qa6. After "is not in the L" a question can only be about L; its answer is no."""

    def __init__(self, places: tuple[str, ...]) -> None:
        super().__init__(places)
        self.not_in: dict[str, str] = {}

    def read(self, statement: str) -> None:
        kind, person, where, *_ = parse(statement)
        if kind == "not in":
            self.not_in[person] = where
            self.place_of.pop(person, None)
        else:
            self.place_of[person] = where
            self.not_in.pop(person, None)

    def candidates(self, rng: random.Random) -> list[QuestionAnswer]:
        questions = [
            (f"Is {person} in the {place}?", "no") for person, place in self.not_in.items()
        ]
        for person, place in self.place_of.items():
            yes = rng.random() < 0.5
            asked = place if yes else self._elsewhere(place, rng)
            questions.append((f"Is {person} in the {asked}?", "yes" if yes else "no"))
        return questions


class _Objects(_People):
    """Also follows who holds what, and the journey of each object: consecutive places differ."""

    def __init__(self, places: tuple[str, ...]) -> None:
        super().__init__(places)
        self.held_by: dict[str, set[str]] = {}
        self.journeys: dict[str, list[str]] = {}

    def read(self, statement: str) -> None:
        kind, person, thing, *_ = parse(statement)
        if kind == "move":
            self.place_of[person] = thing
            for held in self.held_by.get(person, ()):
                self._arrive(held, thing)
        elif kind == "get":
            self.held_by.setdefault(person, set()).add(thing)
            if person in self.place_of:
                self._arrive(thing, self.place_of[person])
        elif kind == "drop":
            self.held_by.get(person, set()).discard(thing)

    def _arrive(self, thing: str, place: str) -> None:
        journey = self.journeys.setdefault(thing, [])
        if not journey or journey[-1] != place:
            journey.append(place)


class WhereObject(_Objects):
    """qa2: ``Where is the O?``"""

    def candidates(self, rng: random.Random) -> list[QuestionAnswer]:
        return [(f"Where is the {thing}?", path[-1]) for thing, path in self.journeys.items()]


class WhereObjectBefore(_Objects):
    """qa3: ``Where was the O before the L?`` about the latest visit to L."""

    def candidates(self, rng: random.Random) -> list[QuestionAnswer]:
        questions = []
        for thing, journey in self.journeys.items():
            visit = len(journey) - 1
            while visit > 1 and rng.random() < _EARLIER_PLACE:
                visit -= 1
            if visit < 1:
                continue
            place = journey[visit]
            visit = max(i for i, other in enumerate(journey) if other == place)
            questions.append((f"Where was the {thing} before the {place}?", journey[visit - 1]))
        return questions


class WhoGave(_People):
    """qa5: five forms of question about the latest gift that fits, with the published shares."""

    def __init__(self, places: tuple[str, ...]) -> None:
        super().__init__(places)
        self.gifts: list[tuple[str, ...]] = []  # giver, thing, receiver; the latest first

    def read(self, statement: str) -> None:
        kind, *gift = parse(statement)
        if kind == "give":
            self.gifts.insert(0, tuple(gift))

    def candidates(self, rng: random.Random) -> list[QuestionAnswer]:
        if not self.gifts:
            return []
        number = 0
        while number + 1 < len(self.gifts) and rng.random() < _EARLIER_GIFT:
            number += 1
        giver, thing, receiver = self.gifts[number]
        # each form: its share, the question, the slots that it names, the slot of the answer
        forms = (
            (35, f"What did {giver} give to {receiver}?", (0, 2), 1),
            (17, f"Who gave the {thing}?", (1,), 0),
            (17, f"Who did {giver} give the {thing} to?", (0, 1), 2),
            (16, f"Who received the {thing}?", (1,), 2),
            (15, f"Who gave the {thing} to {receiver}?", (1, 2), 0),
        )
        _, question, named, asked = rng.choices(forms, [form[0] for form in forms])[0]
        about = self.gifts[number]
        latest = next(
            gift for gift in self.gifts if all(gift[slot] == about[slot] for slot in named)
        )
        return [(question, latest[asked])]


ASKERS: dict[str, Callable[[tuple[str, ...]], Asker]] = {
    "qa1": WherePerson,
    "qa2": WhereObject,
    "qa3": WhereObjectBefore,
    "qa5": WhoGave,
    "qa6": IsPersonIn,
    "qa9": IsPersonInNegated,
    **dict.fromkeys(("qa11", "qa12", "qa13"), WhereFollowed),
}
