"""Rule-based solvers: they answer the real questions, and so test the generated ones."""

from __future__ import annotations

import re
from collections.abc import Sequence

from atlas_bench.tasks.babi.concluding import CONCLUSIONS
from atlas_bench.tasks.babi.sentences import NoRule, parse
from atlas_bench.tasks.babi.stories import COUNTS
from atlas_bench.tasks.babi.telling import OPPOSITE
from atlas_bench.tasks.babi.worlds import check_subtask


class Reader:
    """What follows from the statements read so far."""

    def __init__(self, facts: Sequence[str]) -> None:
        self.place: dict[str, str] = {}
        self.holder: dict[str, str] = {}
        self.path: dict[str, list[str]] = {}  # the places of each object; neighbours differ
        self.gives: list[tuple[str, str, str]] = []
        self.said: dict[str, tuple[str, tuple[str, ...]]] = {}
        self.relations: list[tuple[str, str, str]] = []
        self.first_get: dict[tuple[str, str], int] = {}
        self.named: tuple[str, ...] = ()  # whom a pronoun means
        for number, fact in enumerate(facts):
            self._read(fact, number)

    def _read(self, fact: str, number: int) -> None:
        kind, *words = parse(fact)
        if kind in ("move", "move together"):
            self._move(tuple(words[:-1]), words[-1])
        elif kind == "move on":
            self._move(self.named, words[0])
        elif kind == "get":
            self._take(*words, number)
        elif kind == "drop":
            person, thing = words
            self.holder.pop(thing, None)
            if person in self.place:
                self._at(thing, self.place[person])
        elif kind == "give":
            giver, thing, receiver = words
            self.gives.append((giver, thing, receiver))
            self._take(receiver, thing, number)
            if giver in self.place:
                self._at(thing, self.place[giver])
        elif kind == "lies":
            self.relations.append(tuple(words))
        else:
            person, *places = words
            self.said[person] = (kind, tuple(places))

    def _move(self, people: tuple[str, ...], place: str) -> None:
        self.named = people
        for person in people:
            self.place[person] = place
            self.said[person] = ("in", (place,))
        for thing, holder in self.holder.items():
            if holder in people:
                self._at(thing, place)

    def _take(self, person: str, thing: str, number: int) -> None:
        self.holder[thing] = person
        self.first_get.setdefault((person, thing), number)
        if person in self.place:
            self._at(thing, self.place[person])

    def _at(self, thing: str, place: str) -> None:
        path = self.path.setdefault(thing, [])
        if not path or path[-1] != place:
            path.append(place)

    def carried(self, person: str) -> list[str]:
        """What a person holds, in the order of their first pick-ups."""
        held = [thing for thing, holder in self.holder.items() if holder == person]
        return sorted(held, key=lambda thing: self.first_get[person, thing])


def _before(reader: Reader, thing: str, place: str) -> str:
    path = reader.path[thing]
    latest = max(i for i, visited in enumerate(path) if visited == place and i > 0)
    return path[latest - 1]


def _is_in(reader: Reader, person: str, place: str) -> str:
    kind, named = reader.said[person]
    if kind == "not in" or place not in named:
        return "no"
    return "yes" if kind == "in" else "maybe"


def _gave(reader: Reader, wanted: int, giver: str = "", thing: str = "", receiver: str = "") -> str:
    """The part ``wanted`` of the latest give that fits what is named."""
    for give in reversed(reader.gives):
        named = (giver, thing, receiver)
        if all(not part or part == given for part, given in zip(named, give, strict=True)):
            return give[wanted]
    raise ValueError("no such give was told")


def _relation(reader: Reader, way: str, of: str) -> str:
    """The place that lies ``way`` of the place ``of``."""
    for one, told, other in reader.relations:
        if other == of and told == way:
            return one
        if one == of and told == OPPOSITE[way]:
            return other
    raise ValueError("no such relation was told")


# Question form -> rule. `m` is the match; groups are the words that vary.
_RULES = (
    (r"Where is the (\w+)\?", lambda r, m: r.path[m[1]][-1]),
    (r"Where is (\w+)\?", lambda r, m: r.place[m[1]]),
    (r"Where was the (\w+) before the (\w+)\?", lambda r, m: _before(r, m[1], m[2])),
    (r"What is (\w+) of the (\w+)\?", lambda r, m: _relation(r, m[1], m[2])),
    (r"What is the (\w+) (\w+) of\?", lambda r, m: _relation(r, OPPOSITE[m[2]], m[1])),
    (r"What did (\w+) give to (\w+)\?", lambda r, m: _gave(r, 1, giver=m[1], receiver=m[2])),
    (r"Who gave the (\w+)\?", lambda r, m: _gave(r, 0, thing=m[1])),
    (r"Who gave the (\w+) to (\w+)\?", lambda r, m: _gave(r, 0, thing=m[1], receiver=m[2])),
    (r"Who received the (\w+)\?", lambda r, m: _gave(r, 2, thing=m[1])),
    (r"Who did (\w+) give the (\w+) to\?", lambda r, m: _gave(r, 2, giver=m[1], thing=m[2])),
    (r"Is (\w+) in the (\w+)\?", lambda r, m: _is_in(r, m[1], m[2])),
    (r"How many objects is (\w+) carrying\?", lambda r, m: COUNTS[len(r.carried(m[1]))]),
    (r"What is (\w+) carrying\?", lambda r, m: ",".join(r.carried(m[1])) or "nothing"),
)
_RULES = tuple((re.compile(form), rule) for form, rule in _RULES)


def solve(subtask: str, facts: Sequence[str], question: str) -> str:
    """The answer that follows from ``facts``.

    Raises ValueError for an unknown subtask, a sentence no rule reads or a question that the
    facts do not answer.
    """
    check_subtask(subtask)
    question = question.strip()
    try:
        if subtask in CONCLUSIONS:
            return CONCLUSIONS[subtask](facts, question)
        return _follow(Reader(facts), question)
    except NoRule:
        raise
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(f"{question!r} does not follow from the facts") from error


def _follow(reader: Reader, question: str) -> str:
    for form, rule in _RULES:
        if found := form.fullmatch(question):
            return rule(reader, found)
    raise NoRule(f"no rule answers {question!r}")
