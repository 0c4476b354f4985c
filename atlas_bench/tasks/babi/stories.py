"""bAbI stories: what a statement, a question and a story are, and how the real files are read.

Source of the format and wording: bAbI v1.2 (Weston et al. 2015), CC BY 3.0; no text is copied,
the words are facts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PEOPLE = ("Mary", "John", "Daniel", "Sandra")
GIVERS = ("Bill", "Fred", "Jeff", "Mary")  # qa5
DOUBTFUL = ("Bill", "Fred", "Julie", "Mary")  # qa10
PLACES = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")
TOWN = ("bedroom", "cinema", "kitchen", "office", "park", "school")  # qa10
OBJECTS = ("apple", "football", "milk")
SHAPES = (  # qa17
    "triangle", "pink rectangle", "red square", "blue square", "yellow square", "red sphere",
)  # fmt: skip
SWEETS = ("chocolate", "box of chocolates")  # qa18: the smallest and the next
CONTAINERS = ("box", "chest", "suitcase", "container")  # qa18, in an order of each story's own
PLURALS = {"mouse": "mice", "sheep": "sheep", "wolf": "wolves", "cat": "cats"}  # qa15
ANIMALS = ("swan", "lion", "frog", "rhino")  # qa16
COLORS = ("gray", "white", "yellow", "green")
FEARFUL = ("Gertrude", "Winona", "Jessica", "Emily")  # qa15
COLORED = ("Lily", "Bernhard", "Greg", "Julius", "Brian")  # qa16
MOTIVATED = ("Jason", "Antoine", "Sumit", "Yann")  # qa20
# qa20: where somebody in this state goes, and what for
MOTIVES = {
    "hungry": ("kitchen", "apple"),
    "thirsty": ("kitchen", "milk"),
    "bored": ("garden", "football"),
    "tired": ("bedroom", "pajamas"),
}
MOVES = ("went to", "went back to", "travelled to", "journeyed to", "moved to")
GETS = ("got", "grabbed", "took", "picked up")
DROPS = ("dropped", "left", "put down", "discarded")
GIVES = ("gave", "handed", "passed")
COUNTS = ("none", "one", "two", "three")
NEXT = ("Then", "Afterwards", "After that", "Following that")  # qa11, qa13
HE = ("John", "Daniel")  # the other people of qa11 are "she"
TIMES = ("yesterday", "this morning", "this afternoon", "this evening")  # qa14, in their order

# Every person of all twenty tasks: a noise sentence that names one could be a false fact.
PERSON_NAMES = frozenset((*PEOPLE, *GIVERS, *DOUBTFUL, *FEARFUL, *COLORED, *MOTIVATED))

# The official label sets of all twenty tasks, lower-case.
_SIX, _YES_NO = PLACES, ("no", "yes")
LABELS: dict[str, tuple[str, ...]] = {
    **{f"qa{n}": _SIX for n in (1, 2, 3, 4, 11, 12, 13)},
    **{f"qa{n}": _YES_NO for n in (6, 9, 17, 18)},
    "qa5": ("bill", "fred", "jeff", "mary", "apple", "football", "milk"),
    "qa7": COUNTS,
    "qa8": ("apple", "football", "milk", "nothing"),
    "qa10": ("maybe", "no", "yes"),
    "qa14": TOWN,
    "qa15": tuple(sorted(PLURALS)),
    "qa16": tuple(sorted(COLORS)),
    "qa19": ("e,e", "e,n", "e,s", "n,e", "n,n", "n,w", "s,e", "s,s", "s,w", "w,n", "w,s", "w,w"),
    "qa20": ("bedroom", "bored", "garden", "hungry", "kitchen", "thirsty", "tired"),
}


@dataclass(frozen=True)
class Question:
    """One sample: the statements before a question, the question, its answer.

    ``question`` has the trailing space that the data has; ``supports`` are indices into ``facts``.
    """

    facts: tuple[str, ...]
    question: str
    answer: str
    supports: tuple[int, ...] = ()


@dataclass(frozen=True)
class Statement:
    """One line of a story that tells something."""

    text: str


@dataclass(frozen=True)
class Query:
    """One line of a story that asks; ``supports`` count the story's statements from 0."""

    text: str
    answer: str
    supports: tuple[int, ...] = ()


@dataclass(frozen=True)
class Story:
    """Statements and questions in the order they are told."""

    lines: tuple[Statement | Query, ...]

    def questions(self) -> Iterator[Question]:
        """Each question with all statements before it."""
        facts: list[str] = []
        for line in self.lines:
            if isinstance(line, Statement):
                facts.append(line.text)
            else:
                yield Question(tuple(facts), line.text, line.answer, line.supports)


_KINDS = {
    **{name.lower(): "P" for name in PERSON_NAMES},
    **dict.fromkeys((*PLACES, *TOWN), "L"),
    **dict.fromkeys((*OBJECTS, "pajamas", *SHAPES, *SWEETS, *CONTAINERS), "O"),
    **dict.fromkeys((*PLURALS, *PLURALS.values(), *ANIMALS), "A"),
    **dict.fromkeys(COLORS, "C"),
}
# the longest first: "box of chocolates" is not a box
_VARYING = re.compile(rf"\b(?:{'|'.join(sorted(_KINDS, key=len, reverse=True))})\b", re.IGNORECASE)


def template(sentence: str) -> str:
    """The sentence with names as P, places L, objects and shapes O, animals A and colours C, for
    instance "P went to the L."."""
    return _VARYING.sub(lambda found: _KINDS[found[0].lower()], sentence.strip())


def read_stories(path: str | Path) -> Iterator[Question]:
    """The questions of a bAbI file (``ID statement`` / ``ID question <tab> answer <tab> IDs``).

    Raises ValueError naming the file and the line where one is not of this form: IDs count from 1
    in every story, and supporting IDs name statements above.
    """
    facts: list[str] = []
    index_of: dict[int, int] = {}
    last = 0
    for number, line in enumerate(Path(path).read_bytes().splitlines(), 1):
        try:
            identifier, fields = _fields(line, last)
            if identifier == 1:
                facts, index_of = [], {}
            last = identifier
            if len(fields) == 1:
                index_of[identifier] = len(facts)
                facts.append(fields[0])
                continue
            supports = _supports(fields[2], index_of)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
        yield Question(tuple(facts), fields[0], fields[1], supports)


def _fields(line: bytes, last: int) -> tuple[int, list[str]]:
    """The ID of a line, and its one (statement) or three fields (question, answer, IDs)."""
    text = line.decode("utf-8")
    head, _, rest = text.partition(" ")
    fields = rest.split("\t")
    whole = len(fields) in (1, 3) and all(field.strip() for field in fields[:2])
    if not (head.isascii() and head.isdigit() and whole):
        raise ValueError(
            f"{text.strip()[:60]!r} is neither 'ID statement' nor "
            "'ID question<tab>answer<tab>supporting IDs'"
        )
    if int(head) not in (1, last + 1):
        raise ValueError(f"ID {head} follows ID {last}; a story counts 1, 2, 3, ...")
    return int(head), fields


def _supports(words: str, index_of: dict[int, int]) -> tuple[int, ...]:
    try:
        return tuple(index_of[int(word)] for word in words.split())
    except (KeyError, ValueError) as error:
        raise ValueError(f"supporting IDs {words!r} name no statement above") from error
