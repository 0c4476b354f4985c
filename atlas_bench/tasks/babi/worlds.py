"""Our own bAbI world simulator: the wording, the distributions and the rules of the real data.

Every world keeps the truth and, apart from it, what a reader can know; a question is asked only
when its answer follows from what was told. One maker per subtask: ``MAKERS``.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial

from atlas_bench.naming import nearest
from atlas_bench.tasks.babi.acting import ACTIONS, acted
from atlas_bench.tasks.babi.stories import LABELS, Query, Question, Story
from atlas_bench.tasks.babi.telling import CLAIMS, claimed, compass

QUESTIONS_PER_STORY = {"qa4": 1}
USUAL_QUESTIONS = 5

MAKERS: dict[str, Callable[[random.Random, int], Story]] = {
    **{name: partial(acted, name) for name in ACTIONS},
    **{name: partial(claimed, name) for name in CLAIMS},
    "qa4": compass,
}
SUBTASKS = tuple(sorted(MAKERS, key=lambda name: int(name[2:])))


def generate_story(subtask: str, rng: random.Random, *, questions: int | None = None) -> Story:
    """A story with as many questions as the data's (5; qa4: 1), or with ``questions``.

    Decided by ``rng`` alone. Raises ValueError for a subtask that is not built, and for less than
    one question.
    """
    check_subtask(subtask)
    if questions is None:
        questions = QUESTIONS_PER_STORY.get(subtask, USUAL_QUESTIONS)
    if questions < 1:
        raise ValueError(f"questions: {questions} must be at least 1")
    return MAKERS[subtask](rng, questions)


def generate_questions(subtask: str, rng: random.Random) -> Iterator[Question]:
    """The questions of story after story, without end.

    Raises ValueError at once for a subtask that is not built.
    """
    check_subtask(subtask)
    return _endless(subtask, rng)


def _endless(subtask: str, rng: random.Random) -> Iterator[Question]:
    while True:
        yield from generate_story(subtask, rng).questions()


def check_subtask(subtask: str) -> None:
    """Raises ValueError, with the nearest name, for a subtask that is not built."""
    if subtask not in SUBTASKS:
        raise ValueError(
            f"{subtask} is not one of {', '.join(SUBTASKS)}{nearest(subtask, SUBTASKS)}"
        )


def wording(subtask: str) -> list[str]:
    """Sentences with every name, place, object, verb and question form of the subtask."""
    check_subtask(subtask)
    rng = random.Random(f"wording {subtask}")  # seeded by text: alike on every machine
    story = generate_story(subtask, rng, questions=400)
    sentences = [line.text.strip() for line in story.lines]
    answers = [line.answer for line in story.lines if isinstance(line, Query)]
    seen = {answer.lower() for answer in answers}
    rare = [label for label in LABELS[subtask] if label not in seen]  # "three" in qa7
    return list(dict.fromkeys(sentences + answers + rare))
