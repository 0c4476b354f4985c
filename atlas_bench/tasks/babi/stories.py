"""bAbI stories: what a statement, a question and a story are, and how the real files are read.

Source of the format and wording: bAbI v1.2 (Weston et al. 2015), CC BY 3.0; no text is copied,
the words are facts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PEOPLE = ("Mary", "John", "Daniel", "Sandra")
GIVERS = ("Bill", "Fred", "Jeff", "Mary")  # qa5
DOUBTFUL = ("Bill", "Fred", "Julie", "Mary")  # qa10
PLACES = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")
TOWN = ("bedroom", "cinema", "kitchen", "office", "park", "school")  # qa10
OBJECTS = ("apple", "football", "milk")
MOVES = ("went to", "went back to", "travelled to", "journeyed to", "moved to")
GETS = ("got", "grabbed", "took", "picked up")
DROPS = ("dropped", "left", "put down", "discarded")
GIVES = ("gave", "handed", "passed")
COUNTS = ("none", "one", "two", "three")

# Every person of all twenty tasks: a noise sentence that names one could be a false fact.
PERSON_NAMES = frozenset(
    (*PEOPLE, *GIVERS, *DOUBTFUL, "Gertrude", "Winona", "Jessica", "Emily", "Lily", "Bernhard",
     "Greg", "Julius", "Brian", "Jason", "Antoine", "Sumit", "Yann")
)  # fmt: skip

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
    "qa15": ("cat", "mouse", "sheep", "wolf"),
    "qa16": ("gray", "green", "white", "yellow"),
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


def read_stories(path: str | Path) -> Iterator[Question]:
    """The questions of a bAbI file (``ID statement`` / ``ID question <tab> answer <tab> IDs``).

    Raises ValueError naming the file and the line where one is not of this form.
    """
    facts: list[str] = []
    index_of: dict[int, int] = {}
    with Path(path).open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            head, _, rest = line.rstrip("\n").partition(" ")
            fields = rest.split("\t")
            if not head.isdigit() or not rest or len(fields) not in (1, 3):
                raise ValueError(
                    f"{path}, line {number}: {line.strip()[:60]!r} is neither 'ID statement' nor "
                    f"'ID question<tab>answer<tab>supporting IDs'"
                )
            identifier = int(head)
            if identifier == 1:
                facts, index_of = [], {}
            if len(fields) == 1:
                index_of[identifier] = len(facts)
                facts.append(fields[0])
                continue
            try:
                supports = tuple(index_of[int(word)] for word in fields[2].split())
            except (KeyError, ValueError) as error:
                raise ValueError(
                    f"{path}, line {number}: supporting IDs {fields[2]!r} name no statement above"
                ) from error
            yield Question(tuple(facts), fields[0], fields[1], supports)
