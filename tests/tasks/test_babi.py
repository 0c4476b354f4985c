"""bAbI: the words, forms and distributions of the simulator against those of the real files."""

from __future__ import annotations

import functools
import itertools
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from babi_data import (
    by_story,
    generated,
    needs_real,
    real,
    whole_stories,
    with_plain_verbs,
    words,
)

from atlas_bench.tasks.babi import (
    ENDLESS,
    LABELS,
    PERSON_NAMES,
    SUBTASKS,
    Query,
    Question,
    generate_questions,
    generate_story,
    solve,
    template,
    wording,
)

form_of = functools.cache(template)


def test_there_are_twenty() -> None:
    assert list(SUBTASKS) == [f"qa{number}" for number in range(1, 21)]
    assert set(LABELS) == set(SUBTASKS)


@needs_real
@pytest.mark.parametrize("subtask", SUBTASKS)
def test_generated_wording_is_that_of_the_data(subtask: str) -> None:
    def forms(questions: list[Question]) -> tuple[set[str], set[str], set[str]]:
        facts = {fact for story in whole_stories(questions) for fact in story}
        asked = {q.question for q in questions}
        vocabulary = words(" ".join([*facts, *asked, *(q.answer for q in questions)]))
        # the question form keeps its trailing space
        forms = {form_of(text) + text[len(text.rstrip()) :] for text in asked}
        return {form_of(fact) for fact in facts}, forms, vocabulary

    assert forms(generated(subtask)) == forms(real(subtask))


# distributions ---------------------------------------------------------------------------------

Story = list[Question]


def kinds(story: Story) -> Iterator[str]:
    """The form of each statement, all verbs of one meaning alike."""
    return (form_of(with_plain_verbs(fact)) for fact in story[-1].facts)


def theres(story: Story, verb: str) -> Iterator[bool]:
    plain = map(with_plain_verbs, story[-1].facts)
    return (" there" in fact for fact in plain if f" {verb} the" in fact)


def places(story: Story) -> Iterator[str]:
    """Where people go."""
    for fact in story[-1].facts:
        yield from re.findall(r" move the (\w+)", with_plain_verbs(fact))


MEASURES: dict[str, Callable[[Story], Iterator[object]]] = {
    "kinds of statement": kinds,
    "there after get": lambda story: theres(story, "get"),
    "there after drop": lambda story: theres(story, "drop"),
    "places gone to": places,
    "labels": lambda story: (q.answer for q in story),
    "question forms": lambda story: (form_of(q.question) for q in story),
    "age of the latest support": lambda story: (len(q.facts) - max(q.supports) for q in story),
}
POINTS = 3
# Here the real file is farther than that from its own world: places and animals are alike in it,
# those gone to are even, but a file has 200 stories and half the answers repeat the one before.
# "office" is 20.2 % of qa2's training answers and 14.6 % of its test answers. What our worlds give
# is even; the difference must be one that stories drawn anew make.
BY_CHANCE = {
    *((f"qa{number}", "labels") for number in (2, 3, 11, 13, 15)),
    *((f"qa{number}", "age of the latest support") for number in (14, 18)),
}
STANDARD_ERRORS = 3


def shares(measure: str, questions: list[Question]) -> dict[object, tuple[float, float]]:
    """The share of each item in per cent, and its variance when stories are drawn anew."""
    stories = [Counter(MEASURES[measure](story)) for story in by_story(questions)]
    total = sum(story.total() for story in stories)
    found = {}
    for item in set().union(*stories):
        share = sum(story[item] for story in stories) / total
        spread = sum((story[item] - share * story.total()) ** 2 for story in stories)
        found[item] = (100 * share, spread * (100 / total) ** 2)
    return found


@needs_real
@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("subtask", SUBTASKS)
def test_generated_data_is_distributed_as_real_data(subtask: str, measure: str) -> None:
    ours, theirs = (shares(measure, source(subtask)) for source in (generated, real))
    for item in ours.keys() | theirs.keys():
        (share, variance), (real_share, real_variance) = (
            found.get(item, (0.0, 0.0)) for found in (ours, theirs)
        )
        points = POINTS
        if (subtask, measure) in BY_CHANCE:
            points = max(points, STANDARD_ERRORS * math.sqrt(variance + real_variance))
        assert share == pytest.approx(real_share, abs=points), item


@needs_real
@pytest.mark.parametrize("subtask", SUBTASKS)
def test_generated_stories_have_the_rhythm_of_real_ones(subtask: str) -> None:
    ours, theirs = generated(subtask), real(subtask)
    for measure in (lambda q: len(q.facts), lambda q: len(q.supports)):
        mean = sum(map(measure, theirs)) / len(theirs)
        assert sum(map(measure, ours)) / len(ours) == pytest.approx(mean, rel=0.1)
    assert max(len(q.facts) for q in ours) >= 0.6 * max(len(q.facts) for q in theirs)
    if subtask in ENDLESS:  # a question is about one of the last five statements
        assert all(1 <= len(q.facts) - max(q.supports) <= 5 for q in ours + theirs)
    else:
        assert usual_questions(ours) == usual_questions(theirs)


def usual_questions(questions: list[Question]) -> set[int]:
    """How many questions a story has. The real file breaks off its last story, 6 stories of qa18
    go on for longer, and two stories of qa4 may be the same by chance."""
    lengths = Counter(len(story) for story in by_story(questions))
    return {length for length, count in lengths.items() if count > 0.02 * lengths.total()}


# stories, labels, names ------------------------------------------------------------------------


@pytest.mark.parametrize("subtask", ENDLESS)
@pytest.mark.parametrize("questions", [None, 1, 40])
def test_story_has_the_questions_wanted(subtask: str, questions: int | None) -> None:
    story = generate_story(subtask, random.Random(5), questions=questions)
    asked = list(story.questions())
    assert len(asked) == (questions or 5)
    assert isinstance(story.lines[-1], Query)
    for q in asked:
        assert solve(subtask, q.facts, q.question) == q.answer


@pytest.mark.parametrize("subtask", SUBTASKS)
def test_generated_questions_are_those_of_new_stories(subtask: str) -> None:
    stream = itertools.islice(generate_questions(subtask, random.Random(6)), 20)
    rng = random.Random(6)
    stories = (generate_story(subtask, rng).questions() for _ in range(20))
    assert list(stream) == list(itertools.islice(itertools.chain.from_iterable(stories), 20))


@needs_real
@pytest.mark.parametrize("subtask", SUBTASKS)
def test_labels_and_names_cover_the_real_files(subtask: str) -> None:
    answers = " ".join(q.answer.lower() for q in real(subtask))
    answers = answers.replace(",", " ") if subtask == "qa8" else answers
    assert set(answers.split()) == set(LABELS[subtask])
    if subtask in ("qa4", "qa17", "qa18", "qa19"):
        return  # nobody acts here
    # plurals start the rules of qa15 ("Mice are afraid of wolves."), times and connectives others
    others = {"Mice", "Wolves", "Cats", "Sheep", "This", "Yesterday", "Then", "After", "Afterwards",
              "Following"}  # fmt: skip
    firsts = {fact.split()[0] for story in whole_stories(real(subtask)) for fact in story}
    assert firsts - others <= PERSON_NAMES


def test_labels_and_names_are_complete() -> None:
    assert all(label == label.lower() for labels in LABELS.values() for label in labels)
    assert {"Mary", "Julie", "Yann", "Gertrude", "Bernhard"} <= PERSON_NAMES
    for subtask in SUBTASKS:
        answers = {q.answer.lower() for q in generated(subtask)}
        parts = {part for answer in answers for part in answer.split(",")}
        assert (parts if subtask == "qa8" else answers) <= set(LABELS[subtask])


@needs_real
@pytest.mark.parametrize("subtask", SUBTASKS)
def test_wording_covers_the_words_and_forms_of_the_data(subtask: str) -> None:
    sentences = wording(subtask)
    texts = {text for q in real(subtask) for text in (*q.facts, q.question, q.answer)}
    assert words(" ".join(texts)) <= words(" ".join(sentences))
    forms = {form_of(text) for text in texts if text.rstrip()[-1] in ".?"}
    assert forms <= {form_of(sentence) for sentence in sentences}
