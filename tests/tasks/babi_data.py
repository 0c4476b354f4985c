"""What the bAbI tests share: the real and the generated questions, and how statements are read."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest

from atlas_bench.tasks.babi import Question, generate_questions, read_stories

REAL = Path(__file__).parents[3] / "shared" / "data" / "babi"
needs_real = pytest.mark.skipif(
    not REAL.is_dir(), reason="the real bAbI files are not in ../shared/data/babi"
)
MOVES = ("went to", "went back to", "travelled to", "journeyed to", "moved to")
VERBS = {
    **dict.fromkeys(MOVES, "move"),
    **dict.fromkeys(("got", "grabbed", "took", "picked up"), "get"),
    **dict.fromkeys(("dropped", "left", "put down", "discarded"), "drop"),
    **dict.fromkeys(("gave", "handed", "passed"), "give"),
}
_VERB = re.compile(rf"\b({'|'.join(VERBS)}) the\b")


@cache
def real(subtask: str) -> list[Question]:
    return list(read_stories(REAL / f"{subtask}_train.txt"))


@cache
def generated(subtask: str) -> list[Question]:
    questions = generate_questions(subtask, random.Random(7))
    return list(itertools.islice(questions, 4000))


SOURCES = [pytest.param(real, marks=needs_real), generated]
Source = Callable[[str], list[Question]]


def by_story(questions: Sequence[Question]) -> Iterator[list[Question]]:
    """The questions of each story."""
    story: list[Question] = []
    for question in questions:
        if story and question.facts[: len(story[-1].facts)] != story[-1].facts:
            yield story
            story = []
        story.append(question)
    yield story


def whole_stories(questions: Sequence[Question]) -> list[tuple[str, ...]]:
    """The statements of each story: those before its last question."""
    return [story[-1].facts for story in by_story(questions)]


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text))


@cache
def with_plain_verbs(fact: str) -> str:
    """ "Mary journeyed to the park." -> "Mary move the park." """
    return _VERB.sub(lambda found: f"{VERBS[found[1]]} the", fact)
