"""bAbI: solvers against the real files, our worlds against solvers, templates and world rules."""

from __future__ import annotations

import random
import re
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from atlas_bench.tasks.babi import (
    LABELS,
    PERSON_NAMES,
    SUBTASKS,
    Query,
    Statement,
    generate_questions,
    generate_story,
    read_stories,
    solve,
    wording,
)

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "babi"
needs_real = pytest.mark.skipif(
    not REAL.is_dir(),
    reason=f"the real bAbI files are not at {REAL} (they are not in the repository)",
)
NAMES = "Mary|John|Daniel|Sandra|Bill|Fred|Jeff|Julie"
PLACES = "bathroom|bedroom|garden|hallway|kitchen|office|cinema|park|school"
THINGS = "apple|football|milk"
MOVE = re.compile(
    rf"({NAMES}) (?:went to|went back to|travelled to|journeyed to|moved to) the (\w+)\."
)
GET = re.compile(rf"({NAMES}) (?:got|grabbed|took|picked up) the (\w+)(?: there)?\.")
DROP = re.compile(rf"({NAMES}) (?:dropped|left|put down|discarded) the (\w+)(?: there)?\.")
GIVE = re.compile(rf"({NAMES}) (?:gave|handed|passed) the (\w+) to (\w+)\.")
# Real answers that the published rules do not give (published data ambiguous there).
ALLOWED_ERRORS = {"qa5": 0.005}


def template(sentence: str) -> str:
    for letter, words in (("P", NAMES), ("L", PLACES), ("O", THINGS)):
        sentence = re.sub(rf"\b(?:{words})\b", letter, sentence)
    return sentence


def real_file(subtask: str) -> Path:
    return REAL / f"{subtask}_train.txt"


def kind(sentence: str) -> str:
    for name, form in (("move", MOVE), ("get", GET), ("drop", DROP), ("give", GIVE)):
        if form.fullmatch(sentence):
            return name
    return re.sub(r".* (is|is no longer|is not|is either) .*", r"\1", template(sentence))


@needs_real
@pytest.mark.parametrize("subtask", SUBTASKS)
def test_solvers_answer_the_real_questions(subtask: str) -> None:
    questions = list(read_stories(real_file(subtask)))
    wrong = sum(solve(subtask, q.facts, q.question) != q.answer for q in questions)
    assert len(questions) == 1000
    assert wrong <= ALLOWED_ERRORS.get(subtask, 0) * len(questions)


@pytest.mark.parametrize("subtask", SUBTASKS)
def test_solvers_answer_2000_generated_questions(subtask: str) -> None:
    questions = islice(generate_questions(subtask, random.Random(1)), 2000)
    wrong = [q for q in questions if solve(subtask, q.facts, q.question) != q.answer]
    assert not wrong, wrong[0]


@needs_real
@pytest.mark.parametrize("subtask", SUBTASKS)
def test_every_generated_sentence_has_a_real_template_and_real_words(subtask: str) -> None:
    text = real_file(subtask).read_text(encoding="utf-8")
    real = list(read_stories(real_file(subtask)))
    templates = {template(fact) for q in real for fact in q.facts}
    templates |= {template(q.question) for q in real}
    words = set(re.findall(r"[\w.?,]+", text))
    drawn = random.Random(2)
    for _ in range(400):
        for line in generate_story(subtask, drawn).lines:
            assert template(line.text) in templates
            assert set(re.findall(r"[\w.?]+", line.text)) <= words
            if isinstance(line, Query):
                assert set(line.answer.split(",")) <= words | set(LABELS[subtask])


@needs_real
@pytest.mark.parametrize("subtask", SUBTASKS)
def test_statement_shares_and_rhythm_are_the_real_ones(subtask: str) -> None:
    def shares(stories: list[list[str]]) -> Counter:
        counted = Counter(kind(fact) for facts in stories for fact in facts)
        total = counted.total()
        return Counter({name: count / total for name, count in counted.items()})

    real = [list(q.facts) for q in read_stories(real_file(subtask))]
    per_story = 1 if subtask == "qa4" else 5
    drawn = random.Random(3)
    ours = [generate_story(subtask, drawn) for _ in range(300)]
    told = [[line.text for line in story.lines if isinstance(line, Statement)] for story in ours]
    found, wanted = shares(told), shares(real[per_story - 1 :: per_story])
    for name in found | wanted:
        assert abs(found[name] - wanted[name]) < 0.03, name
    asked = [sum(isinstance(line, Query) for line in story.lines) for story in ours]
    assert set(asked) == {per_story}


@needs_real
@pytest.mark.parametrize("subtask", SUBTASKS)
def test_supports_are_told_apart_as_in_the_data(subtask: str) -> None:
    """The supporting statements alone answer the question (where the data's alone do)."""
    if subtask in ("qa2", "qa3", "qa7", "qa8"):
        sizes = Counter(len(q.supports) for q in read_stories(real_file(subtask)))
        drawn = islice(generate_questions(subtask, random.Random(4)), 500)
        found = Counter(len(set(q.supports)) for q in drawn)
        assert set(found) <= set(sizes) | {1, 2}
        return
    for q in islice(generate_questions(subtask, random.Random(4)), 500):
        facts = [q.facts[index] for index in q.supports]
        assert solve(subtask, facts, q.question) == q.answer


@pytest.mark.parametrize("subtask", ["qa1", "qa2", "qa3", "qa5", "qa6", "qa7", "qa8"])
def test_world_rules(subtask: str) -> None:
    """Get only what lies where one is, drop only what one holds, give only to who is there."""
    drawn = random.Random(5)
    for _ in range(150):
        place: dict[str, str] = {}
        holder: dict[str, str] = {}
        lies: dict[str, str] = {}  # objects dropped at a known place
        for line in generate_story(subtask, drawn).lines:
            if isinstance(line, Query):
                continue
            if found := MOVE.fullmatch(line.text):
                assert place.get(found[1]) != found[2]
                place[found[1]] = found[2]
            elif found := GET.fullmatch(line.text):
                person, thing = found.groups()
                assert thing not in holder
                if thing in lies and person in place:
                    assert lies[thing] == place[person]
                holder[thing] = person
            elif found := DROP.fullmatch(line.text):
                person, thing = found.groups()
                assert holder.pop(thing) == person
                lies.pop(thing, None)
                if person in place:
                    lies[thing] = place[person]
            elif found := GIVE.fullmatch(line.text):
                giver, thing, receiver = found.groups()
                assert holder[thing] == giver
                assert giver != receiver
                if giver in place and receiver in place:
                    assert place[giver] == place[receiver]
                holder[thing] = receiver
            else:
                raise AssertionError(f"unknown statement {line.text!r}")


@pytest.mark.parametrize("subtask", SUBTASKS)
def test_stories_are_decided_by_the_seed_and_as_long_as_asked(subtask: str) -> None:
    one, two, other = (generate_story(subtask, random.Random(seed)) for seed in (7, 7, 8))
    assert one == two
    assert one != other
    long = generate_story(subtask, random.Random(7), questions=37)
    assert sum(isinstance(line, Query) for line in long.lines) == 37
    assert all(set(q.answer.lower().split(",")) <= set(LABELS[subtask]) for q in long.questions())


@pytest.mark.parametrize("subtask", SUBTASKS)
def test_wording_covers_the_subtask(subtask: str) -> None:
    known = set(re.findall(r"\w+", " ".join(wording(subtask))))
    for q in islice(generate_questions(subtask, random.Random(9)), 300):
        said = " ".join((*q.facts, q.question, q.answer))
        assert set(re.findall(r"\w+", said)) <= known


def test_labels_and_names_are_complete() -> None:
    assert len(LABELS) == 20
    assert all(label == label.lower() for labels in LABELS.values() for label in labels)
    assert {"Mary", "Yann", "Gertrude", "Bernhard"} <= PERSON_NAMES


@pytest.mark.parametrize("subtask", ["qa0", "qa11", "QA1", "qa1 "])
def test_an_unknown_subtask_is_named_with_the_nearest(subtask: str) -> None:
    for call in (
        lambda: generate_story(subtask, random.Random(0)),
        lambda: solve(subtask, [], "Where is Mary?"),
    ):
        with pytest.raises(ValueError, match=re.escape(subtask)):
            call()
    with pytest.raises(ValueError, match="did you mean qa1"):
        generate_story("qa1x", random.Random(0))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("Mary went.\n", "line 1"),
        ("1 Mary moved to the office.\n2 Where is Mary?\toffice\n", "line 2"),
        (
            "1 Mary moved to the office.\n2 Where is Mary?\toffice\t7\n",
            "line 2: supporting IDs '7'",
        ),
    ],
)
def test_a_malformed_file_names_its_line(content: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "qa1.txt"
    path.write_text(content)
    with pytest.raises(ValueError, match=said) as caught:
        list(read_stories(path))
    assert str(path) in str(caught.value)


def test_what_the_facts_do_not_say_is_not_answered() -> None:
    with pytest.raises(ValueError, match="does not follow"):
        solve("qa1", ["John moved to the office."], "Where is Mary? ")
    with pytest.raises(ValueError, match="no rule reads"):
        solve("qa1", ["Once upon a time."], "Where is Mary? ")
    with pytest.raises(ValueError, match="no rule answers"):
        solve("qa1", ["John moved to the office."], "Why?")
