"""Few-shot prompts for pretrained models, around a BABILong context.

The form is that of the published evaluation (babilong/prompts.py): an instruction, two or three
examples, the form of the answer, the context, the question. The wording is our own (prompts.yaml),
so numbers made with it are near the published ones, but not from the same experiment.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import yaml

from atlas_bench.naming import check_choice

MAX_NEW_TOKENS = 20  # as in the published evaluation


@dataclass(frozen=True)
class Example:
    """A few facts with a question about them, and the answer in the form that is asked for."""

    text: str
    answer: str


@dataclass(frozen=True)
class FewShotPrompt:
    """The text of a subtask's prompt before the context; ``post_prompt`` is how to answer."""

    instruction: str
    examples: tuple[Example, ...]
    post_prompt: str


@cache
def few_shot_prompts() -> dict[str, FewShotPrompt]:
    """The prompt of every subtask."""
    content = yaml.safe_load(files(__package__).joinpath("prompts.yaml").read_text("utf-8"))
    prompts = {}
    for subtask, given in content["subtasks"].items():
        instruction = content["instruction"].format(
            about=given["about"], rules=given.get("rules", "")
        )
        examples = tuple(Example(**each) for each in given["examples"])
        prompts[subtask] = FewShotPrompt(instruction.strip(), examples, given["answer_form"])
    return prompts


def render_prompt(
    subtask: str,
    context: str,
    question: str,
    *,
    instruction: bool = True,
    examples: bool = True,
    post_prompt: bool = True,
) -> str:
    """The whole prompt: the chosen parts, the context in its tags and the question.

    The parts have this order and a blank line between them. Raises ValueError for an unknown
    subtask.
    """
    check_choice("subtask", subtask, few_shot_prompts())
    prompt = few_shot_prompts()[subtask]
    parts = [prompt.instruction] if instruction else []
    if examples:
        parts += [
            f"<example>\n{each.text}\nAnswer: {each.answer}\n</example>" for each in prompt.examples
        ]
    if post_prompt:
        parts.append(prompt.post_prompt)
    parts += [f"<context>\n{context.strip()}\n</context>", f"Question: {question.strip()}"]
    return "\n\n".join(parts)
