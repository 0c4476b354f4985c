"""Question answering over numbered documents, and documents of our own for it.

RULER asks about SQuAD (one document has the answer) and HotpotQA (two documents are needed), and
fills the context with other paragraphs of the same set. Both need a network. Offline, the documents
are about invented ships and captains; their subtasks have other names than the published ones.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from atlas_bench.seeding import seeded
from atlas_bench.tasks.ruler.words import NOUNS, TIERS, compound
from atlas_bench.tasks.ruler.writing import Frame, encoded
from atlas_bench.tasks.task import Question

NEW_TOKENS = 32
INSTRUCTION = (
    "Answer the question based on the given documents. Only give me the answer and do not output "
    "any other words."
)
HEADER = f"{INSTRUCTION}\n\nThe following are given documents."


@dataclass(frozen=True)
class Problem:
    """A question, its answers, the ``gold`` documents that contain them, and other documents in the
    order in which they are taken."""

    question: str
    references: tuple[str, ...]
    gold: tuple[str, ...]
    others: Iterator[str]


class Problems(Protocol):
    """A source of questions."""

    def problem(self, index: int, rng: random.Random) -> Problem:
        """Question number ``index``. Raises IndexError past the last one of a published set."""


def qa_sample(
    subtask: str,
    length: int,
    parts: Sequence[object],
    frame: Frame,
    problems: Problems,
    index: int,
) -> Question:
    """The sample of ``length`` tokens, 32 for the answer included, that the seed ``parts`` decide.

    The context is filled with as many documents as fit, in random order. ``depth`` is the mean
    depth of the gold ones. Raises ValueError naming ``task.lengths``, and IndexError past the last
    question.
    """
    rng = seeded(*parts)
    problem = problems.problem(index, rng)
    gold = [frame.encode(text) for text in problem.gold]
    labels = encoded(_labels(), frame.tokenizer)
    headings = [next(labels) for _ in gold]
    buffer, question_ids = frame.begin(
        subtask,
        length,
        NEW_TOKENS,
        start=HEADER,
        asked=f"\n\n{INSTRUCTION}\n\nQuestion: {problem.question} Answer:",
        needed=sum(map(len, gold + headings)),
    )
    budget = buffer.room - sum(map(len, gold + headings))
    bodies = list(gold)
    for body, heading in zip(encoded(problem.others, frame.tokenizer), labels, strict=False):
        budget -= len(body) + len(heading)
        if budget < 0:
            break
        bodies.append(body)
        headings.append(heading)
    order = list(range(len(bodies)))
    rng.shuffle(order)
    begin, starts = buffer.used, []
    for heading, place in zip(headings, order, strict=True):
        if place < len(gold):
            starts.append(buffer.used - begin)
        buffer.add(heading)
        buffer.add(bodies[place])
    depth = sum(starts) / len(starts) / (buffer.used - begin)
    return Question(buffer.ids, question_ids, problem.question, problem.references, depth)


def _labels() -> Iterator[str]:
    number = 0
    while True:
        number += 1
        yield f"\n\nDocument {number}:\n"


class InventedShips:
    """Our own paragraphs. ``hops`` 1 asks for a fact of one paragraph, 2 for the village in which a
    ship's captain was born."""

    def __init__(self, hops: int) -> None:
        self.hops = hops

    def problem(self, index: int, rng: random.Random) -> Problem:
        """A new question for every ``rng``; ``index`` has no effect."""
        names = _names(random.Random(rng.getrandbits(64)))
        name, captain = next(names), next(names)
        ship, facts = _ship(name, captain, rng)
        others = _others(names, random.Random(rng.getrandbits(64)))
        if self.hops == 1:
            question, answer = rng.choice(facts)
            return Problem(question, (answer,), (ship,), others)
        life, village = _life(captain, rng)
        question = f"In which village was the captain of the ship {name} born?"
        return Problem(question, (village,), (ship, life), others)


def _ship(name: str, captain: str, rng: random.Random) -> tuple[str, list[tuple[str, str]]]:
    """A paragraph, and questions about it with their answers."""
    year, port, cargo = str(rng.randint(1700, 1899)), _place(rng), rng.choice(NOUNS)
    text = (
        f"The ship {name} was built in {year} at the port of {port}. It carries {cargo} crates, "
        f"and its captain is {captain}."
    )
    facts = [
        (f"Who is the captain of the ship {name}?", captain),
        (f"In which year was the ship {name} built?", year),
        (f"At which port was the ship {name} built?", port),
        (f"What does the ship {name} carry in crates?", cargo),
    ]
    return text, facts


def _life(captain: str, rng: random.Random) -> tuple[str, str]:
    """A paragraph about a captain, and the village that it names."""
    year, village, song = rng.randint(1700, 1899), _place(rng), rng.choice(NOUNS)
    text = (
        f"The captain {captain} was born in {year} in the village of {village}. On board everyone "
        f"knows the captain for the {song} song."
    )
    return text, village


def _place(rng: random.Random) -> str:
    return compound(rng.randrange(TIERS[0], TIERS[1]))


def _others(names: Iterator[str], rng: random.Random) -> Iterator[str]:
    """Endless paragraphs about other ships and captains."""
    for name in names:
        yield _life(name, rng)[0] if rng.random() < 0.5 else _ship(name, next(names), rng)[0]


def _names(rng: random.Random) -> Iterator[str]:
    """Different names of three words each."""
    used: set[int] = set()
    while True:
        index = rng.randrange(TIERS[1], TIERS[2])
        if index not in used:
            used.add(index)
            yield compound(index)
