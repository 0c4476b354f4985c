"""bAbI: the simulator against the real files, the solvers against both, the reader."""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path

import pytest

from atlas_bench.tasks.babi import (
    LABELS,
    PERSON_NAMES,
    SUBTASKS,
    Query,
    Question,
    generate_questions,
    generate_story,
    read_stories,
    solve,
    template,
    wording,
)

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared" / "data" / "babi"
needs_real = pytest.mark.skipif(
    not REAL.is_dir(), reason="the real bAbI files are not in ../shared/data/babi"
)
ALL_TWENTY = [f"qa{number}" for number in range(1, 21)]
ACTED = ("qa1", "qa2", "qa3", "qa5", "qa6", "qa7", "qa8")
MOVES = ("went to", "went back to", "travelled to", "journeyed to", "moved to")
VERBS = {
    **dict.fromkeys(MOVES, "move"),
    **dict.fromkeys(("got", "grabbed", "took", "picked up"), "get"),
    **dict.fromkeys(("dropped", "left", "put down", "discarded"), "drop"),
    **dict.fromkeys(("gave", "handed", "passed"), "give"),
    **{words: words for words in ("is in", "is no longer in", "is not in", "is either in")},
}
STATEMENT = re.compile(rf"(\w+) ({'|'.join(VERBS)}) the (\w+)(?: there| to (\w+)| or the (\w+))?\.")
COMPASS = re.compile(r"The (\w+) is (north|south|east|west) of the (\w+)\.")
OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east"}


@cache
def real(subtask: str) -> list[Question]:
    return list(read_stories(REAL / f"{subtask}_train.txt"))


@cache
def generated(subtask: str) -> list[Question]:
    return list(itertools.islice(generate_questions(subtask, random.Random(7)), 4000))


SOURCES = [pytest.param(real, marks=needs_real), generated]
Source = Callable[[str], list[Question]]


def whole_stories(questions: Sequence[Question]) -> list[tuple[str, ...]]:
    """The statements of each story: those before its last question."""
    lasts = [
        now.facts
        for now, following in itertools.pairwise(questions)
        if following.facts[: len(now.facts)] != now.facts
    ]
    return [*lasts, questions[-1].facts]


def parse(fact: str) -> tuple[str, str, str, str]:
    """(kind, person, object or place, receiver or second place)."""
    person, verb, what, *others = STATEMENT.fullmatch(fact).groups()
    return VERBS[verb], person, what, next(filter(None, others), "")


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text))


# solvers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("subtask", SUBTASKS)
def test_solver_answers_every_question(subtask: str, source: Source) -> None:
    wrong = [q for q in source(subtask) if solve(subtask, q.facts, q.question) != q.answer]
    # of qa5's 1,000 published answers, two are not those of the latest give
    assert len(wrong) <= (5 if subtask == "qa5" and source is real else 0), wrong


GAVE = ("Bill gave the milk to Fred.", "Fred passed the milk to Jeff.")
CARRY = ("Mary got the milk.", "Mary moved to the office.", "Mary went to the garden.")
AGAIN = ("Mary went to the kitchen.", "Mary went to the garden.")
EITHER = ("Bill is either in the park or the school.",)
DROP = ("Mary got the milk.", "Mary got the apple.", "Mary left the milk.", "Mary took the milk.")


@pytest.mark.parametrize(
    ("subtask", "facts", "question", "answer"),
    [
        ("qa2", (*CARRY, "Mary left the milk.", *AGAIN[:1]), "Where is the milk? ", "garden"),
        ("qa3", CARRY + AGAIN, "Where was the milk before the garden? ", "kitchen"),
        ("qa5", GAVE, "Who gave the milk? ", "Fred"),
        ("qa5", GAVE, "Who did Bill give the milk to? ", "Fred"),
        ("qa7", GAVE, "How many objects is Fred carrying? ", "none"),
        ("qa8", DROP, "What is Mary carrying? ", "milk,apple"),
        ("qa9", ("John is no longer in the office.",), "Is John in the office? ", "no"),
        ("qa10", EITHER, "Is Bill in the park? ", "maybe"),
        ("qa10", EITHER, "Is Bill in the office? ", "no"),
    ],
)
def test_solver_by_hand(subtask: str, facts: tuple[str, ...], question: str, answer: str) -> None:
    assert solve(subtask, facts, question) == answer


def test_solver_refuses_what_does_not_follow() -> None:
    with pytest.raises(ValueError, match="does not follow"):
        solve("qa1", ("John went to the office.",), "Where is Mary? ")
    with pytest.raises(ValueError, match="no rule reads"):
        solve("qa1", ("John flew to the office.",), "Where is John? ")
    with pytest.raises(ValueError, match="no rule answers"):
        solve("qa1", ("John went to the office.",), "Why is John? ")


# wording and distributions ---------------------------------------------------------------------


@needs_real
@pytest.mark.parametrize("subtask", SUBTASKS)
def test_generated_wording_is_that_of_the_data(subtask: str) -> None:
    def forms(questions: list[Question]) -> tuple[set[str], set[str], set[str]]:
        facts = {fact for story in whole_stories(questions) for fact in story}
        asked = {q.question for q in questions}
        vocabulary = words(" ".join([*facts, *asked, *(q.answer for q in questions)]))
        # the question form keeps its trailing space
        forms = {template(text) + text[len(text.rstrip()) :] for text in asked}
        return {template(fact) for fact in facts}, forms, vocabulary

    assert forms(generated(subtask)) == forms(real(subtask))


def told_kinds(questions: list[Question]) -> list[tuple[str, str]]:
    told = itertools.chain.from_iterable(whole_stories(questions))
    return [("compass" if COMPASS.fullmatch(fact) else parse(fact)[0], fact) for fact in told]


def theres(questions: list[Question], kind: str) -> list[bool]:
    return [" there" in fact for told, fact in told_kinds(questions) if told == kind]


MEASURES: dict[str, Callable[[list[Question]], Iterable[object]]] = {
    "kinds of statement": lambda questions: (kind for kind, _ in told_kinds(questions)),
    "there after get": lambda questions: theres(questions, "get"),
    "there after drop": lambda questions: theres(questions, "drop"),
    "labels": lambda questions: (q.answer for q in questions),
    "question forms": lambda questions: (template(q.question) for q in questions),
    "age of the latest support": lambda questions: (
        len(q.facts) - max(q.supports) for q in questions
    ),
}


@needs_real
@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("subtask", SUBTASKS)
def test_generated_data_is_distributed_as_real_data(subtask: str, measure: str) -> None:
    ours, theirs = (Counter(MEASURES[measure](source(subtask))) for source in (generated, real))
    points = 3
    if subtask in ("qa2", "qa3") and measure == "labels":
        # Places are uniform in our worlds. The 200 real stories of qa2 say "garden" 21 % of the
        # time, those of qa3 "bathroom" 20 %: half the answers repeat the one before, so by chance.
        points = 5
    for item in ours.keys() | theirs.keys():
        share, real_share = (100 * c[item] / c.total() for c in (ours, theirs))
        assert share == pytest.approx(real_share, abs=points), item


@needs_real
@pytest.mark.parametrize("subtask", SUBTASKS)
def test_generated_stories_have_the_rhythm_of_real_ones(subtask: str) -> None:
    ours, theirs = generated(subtask), real(subtask)
    for measure in (lambda q: len(q.facts), lambda q: len(q.supports)):
        mean = sum(map(measure, theirs)) / len(theirs)
        assert sum(map(measure, ours)) / len(ours) == pytest.approx(mean, rel=0.1)
    assert max(len(q.facts) for q in ours) >= 0.6 * max(len(q.facts) for q in theirs)
    # a question is about one of the last five statements
    assert all(1 <= len(q.facts) - max(q.supports) <= 5 for q in ours + theirs)


# supports --------------------------------------------------------------------------------------


def expected_supports(subtask: str, q: Question) -> tuple[int, ...]:
    """What the data names as supporting facts, found from the text alone."""
    if subtask == "qa4":
        named = words(q.question) & set(LABELS["qa4"]) | {q.answer}
        return tuple(i for i, fact in enumerate(q.facts) if named <= words(fact))
    told = [(i, *parse(fact)) for i, fact in enumerate(q.facts)]
    asked = re.findall(r"[A-Z]\w+(?= carrying| in)|(?<=Where is )[A-Z]\w+", q.question)
    if subtask in ("qa1", "qa6", "qa9", "qa10"):
        about = [i for i, kind, who, *_ in told if who == asked[-1] and kind not in ("get", "drop")]
        return (about[-1],)
    if subtask in ("qa7", "qa8"):
        person = asked[-1]
        mine = [
            (i, what) for i, kind, who, what, to in told if kind != "move" and person in (who, to)
        ]
        things = list(dict.fromkeys(what for _, what in mine))
        if subtask == "qa8":
            mine.sort(key=lambda entry: things.index(entry[1]))
        return tuple(i for i, _ in mine)
    if subtask == "qa5":
        named = words(q.question) & {"Bill", "Fred", "Jeff", "Mary", "apple", "football", "milk"}
        gives = [i for i, kind, *parts in told if kind == "give" and named | {q.answer} <= {*parts}]
        return (gives[-1],)
    thing, *before = re.findall(r"the (\w+)", q.question)
    touch, kind, person = [t for t in told if t[1] != "move" and t[3] == thing][-1][:3]
    end = touch if kind == "drop" else len(told)
    moves = [(i, what) for i, kind, who, what, _ in told[:end] if kind == "move" and who == person]
    if subtask == "qa2":
        return touch, moves[-1][0]
    latest = max(n for n, (_, place) in enumerate(moves) if place == before[0])
    return touch, moves[latest][0], moves[latest - 1][0]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("subtask", SUBTASKS)
def test_supports_follow_the_rule(subtask: str, source: Source) -> None:
    wrong = [q for q in source(subtask) if expected_supports(subtask, q) != q.supports]
    assert len(wrong) <= (5 if subtask == "qa5" and source is real else 0), wrong


# world rules -----------------------------------------------------------------------------------


def resolve(values: dict[str, str], place: str) -> str:
    while place in values:
        place = values[place]
    return place


def equal(values: dict[str, str], one: str, other: str) -> bool:
    """Two places are one; a place not told yet ("?Mary") takes the other's value."""
    one, other = resolve(values, one), resolve(values, other)
    if one[0] == "?" and one != other:
        values[one] = other
    elif other[0] == "?" and one != other:
        values[other] = one
    return resolve(values, one) == resolve(values, other)


def acting_violations(facts: Sequence[str]) -> list[str]:
    """Statements that the rules of a world of actions forbid."""
    values: dict[str, str] = {}
    holder: dict[str, str] = {}
    place: dict[str, str] = {}  # of people and of objects that lie somewhere
    found = []
    for fact in facts:
        kind, person, what, to = parse(fact)
        here = place.setdefault(person, f"?{person}")
        if kind == "move":
            right = resolve(values, here) != what
            place[person] = what
        elif kind == "get":
            right = what not in holder
            right &= equal(values, here, place.setdefault(what, f"?{what}"))
            holder[what] = person
        elif kind == "drop":
            right = holder.pop(what, None) == person
            place[what] = here
        else:
            right = holder.get(what) == person != to
            right &= equal(values, here, place.setdefault(to, f"?{to}"))
            holder[what] = to
        found += [] if right else [fact]
    return found


def claim_violations(facts: Sequence[str]) -> list[str]:
    """Everyone goes elsewhere with each statement; a negation names the place just left."""
    at: dict[str, tuple[bool, str]] = {}
    found = []
    for fact in facts:
        kind, person, what, other = parse(fact)
        inside, last = at.pop(person, (None, ""))
        negation = kind in ("is no longer in", "is not in")
        if inside is True and (what == last) != negation and not other:
            found.append(fact)
        if inside is False and negation and what == last:
            found.append(fact)
        if not other:
            at[person] = (not negation, what)
    return found


def compass_violations(facts: Sequence[str]) -> list[str]:
    """Two statements, three places in a row."""
    told = [COMPASS.fullmatch(fact).groups() for fact in facts]
    (middle,) = {told[0][0], told[0][2]} & {told[1][0], told[1][2]}
    seen = [way if of == middle else OPPOSITE[way] for _, way, of in told]
    return [] if len(seen) == 2 and seen[0] == OPPOSITE[seen[1]] else list(facts)


def violations(subtask: str, facts: Sequence[str]) -> list[str]:
    if subtask in ACTED:
        return acting_violations(facts)
    return compass_violations(facts) if subtask == "qa4" else claim_violations(facts)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("subtask", SUBTASKS)
def test_stories_keep_the_rules_of_their_world(subtask: str, source: Source) -> None:
    for story in whole_stories(source(subtask)):
        assert not violations(subtask, story), story


OFFICE = "Mary went to the office."


@pytest.mark.parametrize(
    ("subtask", "facts"),
    [
        ("qa1", [OFFICE, "Mary moved to the office."]),
        ("qa2", ["Mary got the milk there.", "John got the milk there."]),
        ("qa2", ["Mary dropped the milk."]),
        ("qa2", [OFFICE, "Mary got the milk there.", "Mary left the milk.",
                 "John went to the garden.", "John took the milk there."]),
        ("qa5", ["Mary got the milk there.", "Fred got the apple there.", OFFICE,
                 "Fred went to the garden.", "Mary gave the milk to Fred."]),
        ("qa9", [OFFICE, "Mary is not in the garden."]),
        ("qa4", ["The office is north of the garden.", "The hallway is north of the garden."]),
    ],
)  # fmt: skip
def test_rule_checker_sees_violations(subtask: str, facts: list[str]) -> None:
    assert violations(subtask, facts)


# stories, names ---------------------------------------------------------------------------------


@pytest.mark.parametrize("subtask", SUBTASKS)
@pytest.mark.parametrize("questions", [None, 1, 40])
def test_story_has_the_questions_wanted(subtask: str, questions: int | None) -> None:
    story = generate_story(subtask, random.Random(5), questions=questions)
    asked = list(story.questions())
    assert len(asked) == (questions or (1 if subtask == "qa4" else 5))
    assert isinstance(story.lines[-1], Query)
    if subtask != "qa4":  # a long qa4 is many stories, its last two statements count
        assert not violations(subtask, asked[-1].facts)
        for q in asked:
            assert solve(subtask, q.facts, q.question) == q.answer


@pytest.mark.parametrize("subtask", SUBTASKS)
def test_generated_questions_are_those_of_new_stories(subtask: str) -> None:
    stream = itertools.islice(generate_questions(subtask, random.Random(6)), 20)
    rng = random.Random(6)
    stories = (generate_story(subtask, rng).questions() for _ in range(20))
    assert list(stream) == list(itertools.islice(itertools.chain.from_iterable(stories), 20))


@needs_real
@pytest.mark.parametrize("subtask", ALL_TWENTY)
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
    assert set(LABELS) == set(ALL_TWENTY)
    assert all(label == label.lower() for labels in LABELS.values() for label in labels)
    assert {"Mary", "Julie", "Yann", "Gertrude", "Bernhard"} <= PERSON_NAMES
    for subtask in SUBTASKS:
        assert {part for q in generated(subtask) for part in q.answer.lower().split(",")} <= set(
            LABELS[subtask]
        )


@needs_real
@pytest.mark.parametrize("subtask", SUBTASKS)
def test_wording_covers_the_words_and_forms_of_the_data(subtask: str) -> None:
    sentences = wording(subtask)
    texts = [text for q in real(subtask) for text in (*q.facts, q.question, q.answer)]
    assert words(" ".join(texts)) <= words(" ".join(sentences))
    forms = {template(text) for text in texts if text.rstrip()[-1] in ".?"}
    assert forms <= {template(sentence) for sentence in sentences}
