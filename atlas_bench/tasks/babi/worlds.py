"""Our own bAbI world simulator: the wording, the distributions and the rules of the real data.

Every world keeps the truth and, apart from it, what a reader can know; a question is asked only
when its answer follows from what was told. One maker per subtask: ``ENDLESS``, ``ENDING``.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from functools import partial

from atlas_bench.naming import nearest
from atlas_bench.tasks.babi.acting import ACTIONS, acted
from atlas_bench.tasks.babi.arranging import path, positions, sizes
from atlas_bench.tasks.babi.deducing import colors, fears, motives
from atlas_bench.tasks.babi.following import WALKS, day, walked
from atlas_bench.tasks.babi.stories import LABELS, Question, Story
from atlas_bench.tasks.babi.telling import CLAIMS, claimed, compass

USUAL_QUESTIONS = 5
WORDING_QUESTIONS = 400  # enough to see every word and every form

# Worlds that run on for as long as one likes, and worlds that end with their last question.
ENDLESS: dict[str, Callable[[random.Random, int], Story]] = {
    **{name: partial(acted, name) for name in ACTIONS},
    **{name: partial(claimed, name) for name in CLAIMS},
    **{name: partial(walked, name) for name in WALKS},
}
ENDING: dict[str, Callable[[random.Random], Story]] = {
    "qa4": compass,
    "qa14": day,
    "qa15": fears,
    "qa16": colors,
    "qa17": positions,
    "qa18": sizes,
    "qa19": path,
    "qa20": motives,
}
SUBTASKS = tuple(sorted((*ENDLESS, *ENDING), key=lambda name: int(name[2:])))


def generate_story(subtask: str, rng: random.Random, *, questions: int | None = None) -> Story:
    """A story with as many questions as the data's, or with ``questions`` where the world is one
    of ``ENDLESS``.

    Decided by ``rng`` alone. Raises ValueError for a subtask that is unknown, for less than one
    question, and for ``questions`` of a world that ends by itself.
    """
    check_subtask(subtask)
    if subtask in ENDING:
        if questions is not None:
            raise ValueError(f"questions: a story of {subtask} ends with its own last question")
        return ENDING[subtask](rng)
    if questions is None:
        questions = USUAL_QUESTIONS
    if questions < 1:
        raise ValueError(f"questions: {questions} must be at least 1")
    return ENDLESS[subtask](rng, questions)


def generate_questions(subtask: str, rng: random.Random) -> Iterator[Question]:
    """The questions of story after story, without end.

    Raises ValueError at once for a subtask that is unknown.
    """
    check_subtask(subtask)
    return _endless(subtask, rng)


def _endless(subtask: str, rng: random.Random) -> Iterator[Question]:
    while True:
        yield from generate_story(subtask, rng).questions()


def check_subtask(subtask: str) -> None:
    """Raises ValueError, with the nearest name, for a subtask that is unknown."""
    if subtask not in SUBTASKS:
        raise ValueError(
            f"{subtask} is not one of {', '.join(SUBTASKS)}{nearest(subtask, SUBTASKS)}"
        )


def wording(subtask: str) -> list[str]:
    """Sentences with every name, place, object, verb and question form of the subtask."""
    rng = random.Random(f"wording {subtask}")  # seeded by text: alike on every machine
    asked = list(itertools.islice(generate_questions(subtask, rng), WORDING_QUESTIONS))
    sentences = [text for q in asked for text in (*q.facts, q.question.strip(), q.answer)]
    seen = {q.answer.lower() for q in asked}
    rare = [label for label in LABELS[subtask] if label not in seen]  # "three" in qa7
    return list(dict.fromkeys(sentences + rare))
