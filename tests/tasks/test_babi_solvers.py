"""bAbI: the solvers against the real files, the generated questions, and cases by hand."""

from __future__ import annotations

import pytest
from babi_data import SOURCES, Source, real

from atlas_bench.tasks.babi import SUBTASKS, solve

# Published answers that its rules do not give: two of qa5's are not those of the latest give, and
# qa16 leaves open which of two colors of one kind counts.
AMBIGUOUS = {"qa5": 0.005, "qa16": 0.01}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("subtask", SUBTASKS)
def test_solver_answers_every_question(subtask: str, source: Source) -> None:
    questions = source(subtask)
    assert len(questions) >= (1000 if source is real else 2000)
    wrong = [q for q in questions if solve(subtask, q.facts, q.question) != q.answer]
    allowed = AMBIGUOUS.get(subtask, 0.0) if source is real else 0.0
    assert len(wrong) <= allowed * len(questions), wrong[:3]


GAVE = ("Bill gave the milk to Fred.", "Fred passed the milk to Jeff.")
CARRY = ("Mary got the milk.", "Mary moved to the office.", "Mary went to the garden.")
AGAIN = ("Mary went to the kitchen.", "Mary went to the garden.")
EITHER = ("Bill is either in the park or the school.",)
PRONOUN = (
    "John moved to the office.",
    "Mary moved to the garden.",
    "Then she went to the bedroom.",
)
TOGETHER = (
    "Mary and Daniel went to the kitchen.",
    "John and Daniel moved to the office.",
    "Following that they travelled to the garden.",
)
DAY = (
    "This afternoon Bill went to the park.",
    "Bill moved to the office yesterday.",
    "Fred went to the cinema this morning.",
    "Bill went back to the school this morning.",
)
FEARS = ("Sheep are afraid of cats.", "Wolves are afraid of mice.", "Emily is a wolf.")
# the last of whom both are known is Lily, though Greg's kind was told later than hers
KINDS = (
    "Lily is a frog.", "Greg is a frog.", "Greg is white.", "Brian is a frog.", "Lily is gray.",
)  # fmt: skip
SHAPES = (
    "The triangle is to the left of the pink rectangle.",
    "The pink rectangle is below the red square.",
)
SIZES = ("The chest is bigger than the box of chocolates.", "The chest fits inside the box.")
PATH = (
    "The kitchen is north of the office.",
    "The garden is east of the kitchen.",
    "The office is west of the hallway.",
)
STATES = ("Sumit is thirsty.", "Yann is tired.", "Yann went to the bedroom.")
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
        ("qa11", PRONOUN, "Where is Mary? ", "bedroom"),
        ("qa11", PRONOUN, "Where is John? ", "office"),
        ("qa12", TOGETHER[:2], "Where is Daniel? ", "office"),
        ("qa13", TOGETHER, "Where is Daniel? ", "garden"),
        ("qa13", TOGETHER, "Where is Mary? ", "kitchen"),
        ("qa14", DAY, "Where was Bill before the park? ", "school"),
        ("qa14", DAY, "Where was Bill before the school? ", "office"),
        ("qa15", FEARS, "What is emily afraid of?", "mouse"),
        ("qa16", KINDS, "What color is Brian?", "gray"),
        ("qa17", SHAPES, "Is the red square above the triangle?", "yes"),
        ("qa17", SHAPES, "Is the red square to the left of the triangle?", "no"),
        ("qa17", SHAPES, "Is the triangle to the left of the red square?", "yes"),
        ("qa18", SIZES, "Is the box bigger than the box of chocolates?", "yes"),
        ("qa18", SIZES, "Does the box fit in the box of chocolates?", "no"),
        ("qa19", PATH, "How do you go from the kitchen to the hallway?", "s,e"),
        ("qa19", PATH, "How do you go from the hallway to the kitchen?", "w,n"),
        ("qa20", STATES, "Where will sumit go?", "kitchen"),
        ("qa20", STATES, "Why did yann get the pajamas?", "tired"),
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
    for subtask, facts, question in (
        ("qa14", DAY[:1], "Where was Bill before the park? "),
        ("qa15", FEARS[:1], "What is emily afraid of?"),
        ("qa16", KINDS[:2], "What color is Greg?"),
        ("qa17", SHAPES[:1], "Is the red square above the triangle?"),
        ("qa18", SIZES[:1], "Is the box bigger than the box of chocolates?"),
        ("qa19", PATH[:1], "How do you go from the kitchen to the hallway?"),
        ("qa20", STATES, "Why did yann get the milk?"),
    ):
        with pytest.raises(ValueError, match="does not follow"):
            solve(subtask, facts, question)
        with pytest.raises(ValueError, match="no rule reads"):
            solve(subtask, ("It rains.",), question)
        with pytest.raises(ValueError, match="no rule answers"):
            solve(subtask, facts, "Is it so?")
