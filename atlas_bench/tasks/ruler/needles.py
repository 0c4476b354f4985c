"""Needles in a haystack: the eight NIAH tasks of RULER.

Definitions, sentences and depths: Hsieh et al. 2024, RULER, and its repository (synthetic.yaml,
niah.py; Apache-2.0). The sentences of the prompts are the protocol and RULER's own; the code and
the words, numbers and prose in them are ours.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np

from atlas_bench.seeding import seeded
from atlas_bench.tasks.ruler.words import KEYS, draw
from atlas_bench.tasks.ruler.writing import Frame, Passage, TokenBuffer, encoded
from atlas_bench.tasks.task import Question
from atlas_bench.text.noise import NoisePool
from atlas_bench.text.tokenizer import Tokenizer

REPEATED = (
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
)
NEW_TOKENS = 128
# 40 depths at equal steps, rounded to whole percentages, as in niah.py
DEPTHS = tuple(round(100 * step / 39) for step in range(40))


@dataclass(frozen=True)
class Needles:
    """One NIAH task. ``haystack``: repeat (one repeated line), essay, or needle (needles that no
    question is about). Every key has ``values``; ``queries`` of the ``keys`` are asked about."""

    haystack: str
    key: str = "words"
    value: str = "numbers"
    keys: int = 1
    values: int = 1
    queries: int = 1

    @property
    def single(self) -> bool:
        """Whether the question is about one value, so that the prompt uses the singular."""
        return self.queries * self.values == 1

    @property
    def kind(self) -> str:
        """The prompt's word for the values."""
        return self.value[:-1] if self.single else self.value


NIAH = {
    "niah_single_1": Needles("repeat"),
    "niah_single_2": Needles("essay"),
    "niah_single_3": Needles("essay", value="uuids"),
    "niah_multikey_1": Needles("essay", keys=4),
    "niah_multikey_2": Needles("needle"),
    "niah_multikey_3": Needles("needle", key="uuids", value="uuids"),
    "niah_multivalue": Needles("essay", values=4),
    "niah_multiquery": Needles("essay", keys=4, queries=4),
}


def header(task: Needles) -> str:
    """The text before the haystack."""
    some, are = ("A", "is") if task.single else ("Some", "are")
    return (
        f"{some} special magic {task.kind} {are} hidden within the following text. Make sure to "
        f"memorize it. I will quiz you about the {task.kind} afterwards."
    )


def needle(task: Needles, key: str, value: str) -> str:
    """The sentence that is hidden."""
    return f"One of the special magic {task.value} for {key} is: {value}."


def question(task: Needles, keys: Sequence[str]) -> str:
    """The question after the haystack."""
    what = "What is the" if task.single else "What are all the"
    return f"{what} special magic {task.kind} for {listed(keys)} mentioned in the provided text?"


def answer_prefix(task: Needles, keys: Sequence[str]) -> str:
    """The beginning of the answer, which ends the prompt."""
    are = "is" if task.single else "are"
    return f"The special magic {task.kind} for {listed(keys)} mentioned in the provided text {are}"


def listed(keys: Sequence[str]) -> str:
    """``a``, or ``a, b, and c``."""
    return keys[0] if len(keys) == 1 else f"{', '.join(keys[:-1])}, and {keys[-1]}"


def niah_sample(subtask: str, length: int, parts: Sequence[object], frame: Frame) -> Question:
    """The sample of ``length`` tokens, 128 for the answer included, that the seed ``parts`` decide.

    Keys and values are from the part that is held out for evaluation. Raises ValueError naming
    ``task.lengths`` when the needles do not fit.
    """
    task = NIAH[subtask]
    rng = seeded(*parts)
    keys = _distinct(task, rng)
    values = [[draw(task.value, "test", rng) for _ in range(task.values)] for _ in keys]
    queries = rng.sample(range(task.keys), task.queries)
    hidden = [(number, value) for number, of_key in enumerate(values) for value in of_key]
    rng.shuffle(hidden)
    is_essay = task.haystack == "essay"
    space = " " if is_essay else "\n"
    pieces = [frame.encode(space + needle(task, keys[number], value)) for number, value in hidden]
    used = sum(map(len, pieces))
    asked_keys = [keys[number] for number in queries]
    asked = question(task, asked_keys)
    buffer, question_ids = frame.begin(
        subtask,
        length,
        NEW_TOKENS,
        start=header(task) + ("\n" if is_essay else ""),
        asked=f"\n{asked} {answer_prefix(task, asked_keys)}",
        needed=used + 1,
    )
    budget = buffer.room - used
    if is_essay:
        offsets = _in_essay(buffer, budget, pieces, frame.essays, rng)
    else:
        haystack = _units(task, keys[0], parts, frame.tokenizer)
        offsets = [_among_units(buffer, budget, pieces[0], haystack, rng)]
    depths = [
        offset / budget
        for (number, _), offset in zip(hidden, offsets, strict=True)
        if number in queries
    ]
    return Question(
        context_ids=buffer.ids,
        question_ids=question_ids,
        text=asked,
        references=tuple(value for number in queries for value in values[number]),
        depth=sum(depths) / len(depths),
    )


def _distinct(task: Needles, rng: random.Random) -> list[str]:
    if task.key == "words":
        return rng.sample(KEYS["test"], task.keys)
    return [draw(task.key, "test", rng) for _ in range(task.keys)]


def _in_essay(
    buffer: TokenBuffer,
    budget: int,
    pieces: Sequence[np.ndarray],
    essays: NoisePool,
    rng: random.Random,
) -> list[int]:
    """Writes needles between sentences, each at another of the 40 depths. Returns the number of
    prose tokens before each needle."""
    passage = Passage(essays, rng.randrange(len(essays)), budget)
    depths = sorted(rng.sample(DEPTHS, len(pieces)))
    offsets = [passage.bound(passage.sentences * depth // 100) for depth in depths]
    written = 0
    for piece, offset in zip(pieces, offsets, strict=True):
        passage.write(written, offset, buffer)
        buffer.add(piece)
        written = offset
    passage.write(written, budget, buffer)
    return offsets


def _units(
    task: Needles, key: str, parts: Sequence[object], tokenizer: Tokenizer
) -> Iterator[np.ndarray]:
    """Endless lines: one repeated line, or needles with keys that are not asked about."""
    if task.haystack == "repeat":
        return repeat(tokenizer.encode_phrase("\n" + REPEATED))
    return encoded(_distractors(task, key, seeded(*parts, "haystack")), tokenizer)


def _distractors(task: Needles, key: str, rng: random.Random) -> Iterator[str]:
    while True:
        other = draw(task.key, "test", rng)
        if other != key:
            yield "\n" + needle(task, other, draw(task.value, "test", rng))


def _among_units(
    buffer: TokenBuffer,
    budget: int,
    piece: np.ndarray,
    units: Iterator[np.ndarray],
    rng: random.Random,
) -> int:
    """Writes as many whole units as fit, and the needle before a random one of them. Returns the
    number of tokens before the needle.

    The place is drawn in tokens before the units are known, so units are written one by one.
    """
    place = rng.random() * budget
    written, offset = 0, None
    for unit in units:
        if offset is None and written + len(unit) > place:
            buffer.add(piece)
            offset = written
        if written + len(unit) > budget:
            break
        buffer.add(unit)
        written += len(unit)
    return offset
