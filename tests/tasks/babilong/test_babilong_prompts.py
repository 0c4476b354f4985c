"""Few-shot prompts: their parts and order, and examples that are true and can be scored."""

from __future__ import annotations

import re

import pytest

from atlas_bench.tasks.babi import SUBTASKS, solve
from atlas_bench.tasks.babilong.metrics import published_metric
from atlas_bench.tasks.babilong.prompts import (
    MAX_NEW_TOKENS,
    few_shot_prompts,
    render_prompt,
)

PROMPTS = few_shot_prompts()


def test_every_subtask_has_its_prompt() -> None:
    assert tuple(PROMPTS) == SUBTASKS
    assert MAX_NEW_TOKENS == 20
    for prompt in PROMPTS.values():
        assert 2 <= len(prompt.examples) <= 3
        assert prompt.instruction.endswith(".")
        assert prompt.post_prompt.endswith(".")
        texts = (prompt.instruction, prompt.post_prompt)
        assert not any("  " in text or text != text.strip() for text in texts)


@pytest.mark.parametrize("subtask", SUBTASKS)
def test_examples_are_true_and_count_as_correct(subtask: str) -> None:
    answers = [example.answer for example in PROMPTS[subtask].examples]
    assert len(set(answers)) == len(answers)  # no answer is suggested by being the only one
    for example in PROMPTS[subtask].examples:
        *facts, question = re.findall(r"\S[^.?]*[.?]", example.text)
        answer = solve(subtask, facts, question)
        if answer != "none":  # which the published metric never counts
            assert published_metric(
                subtask, target=answer, output=example.answer, question=question
            ), example
        assert answer in example.answer
        assert len(example.answer.split()) <= 12


def test_parts_stand_in_the_published_order() -> None:
    prompt, text = PROMPTS["qa4"], " The garden is north of the office. "
    example = "<example>\n{}\nAnswer: {}\n</example>"
    examples = [example.format(each.text, each.answer) for each in prompt.examples]
    end = [f"<context>\n{text.strip()}\n</context>", "Question: What is north of the office?"]
    asked = "What is north of the office? "
    assert render_prompt("qa4", text, asked) == "\n\n".join(
        [prompt.instruction, *examples, prompt.post_prompt, *end]
    )
    nothing = {"instruction": False, "examples": False, "post_prompt": False}
    assert render_prompt("qa4", text, asked, **nothing) == "\n\n".join(end)
    for part, wanted in (
        ("instruction", [prompt.instruction]),
        ("examples", examples),
        ("post_prompt", [prompt.post_prompt]),
    ):
        found = render_prompt("qa4", text, asked, **{**nothing, part: True})
        assert found == "\n\n".join([*wanted, *end])


def test_unknown_subtask_is_refused() -> None:
    with pytest.raises(ValueError, match=r"subtask=qa0 is not one of qa1, .*did you mean"):
        render_prompt("qa0", "", "")
