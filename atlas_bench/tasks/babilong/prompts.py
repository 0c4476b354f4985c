"""Few-shot prompts for pretrained models: what is asked of them around a BABILong context.

The shape is that of the published evaluation (babilong/prompts.py): an instruction, two or three
examples, how to answer, the context, the question. The wording is our own, so numbers made with it
are near the published ones and not the same experiment.
"""

from __future__ import annotations

from atlas_bench.naming import check_choice
from atlas_bench.tasks.babilong.prompt_texts import PROMPTS

MAX_NEW_TOKENS = 20  # of the published evaluation


def render_prompt(
    subtask: str,
    context: str,
    question: str,
    *,
    instruction: bool = True,
    examples: bool = True,
    post_prompt: bool = True,
) -> str:
    """The whole prompt text: the parts that are wanted, the context in its tags, the question.

    Parts stand in that order with a blank line between them. Raises ValueError for an unknown
    subtask.
    """
    check_choice("subtask", subtask, PROMPTS)
    prompt = PROMPTS[subtask]
    parts = [prompt.instruction] if instruction else []
    if examples:
        parts += [
            f"<example>\n{each.text}\nAnswer: {each.answer}\n</example>" for each in prompt.examples
        ]
    if post_prompt:
        parts.append(prompt.post_prompt)
    parts += [f"<context>\n{context.strip()}\n</context>", f"Question: {question.strip()}"]
    return "\n\n".join(parts)
