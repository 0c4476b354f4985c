"""BABILong for models that were not trained on it: instruction, examples, context, question.

The context keeps the task's own tokens and only the text around it is added, so a prompt of ten
million tokens is not tokenised twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from atlas_bench.tasks.babilong.prompts import MAX_NEW_TOKENS, render_prompt
from atlas_bench.tasks.task import Cell, Question, QuestionTask

_CONTEXT = "\x00"  # stands for the context while the prompt around it is rendered


class PromptedBabilong(QuestionTask):
    """A BABILong task with its samples, cells and metrics, asked in few-shot prompts.

    ``parts`` says which parts a prompt has: instruction, examples, post_prompt.
    """

    def __init__(self, task: QuestionTask, parts: dict[str, bool]) -> None:
        super().__init__(
            task.settings, task.text, seed=task.seed, question_every=task.question_every
        )
        self.task, self.parts = task, parts
        self.metrics, self.tokenizer, self.vocab_size = (
            task.metrics,
            task.tokenizer,
            task.vocab_size,
        )
        self.samples, self.max_new_tokens = task.samples, MAX_NEW_TOKENS

    def cells(self) -> list[Cell]:
        return self.task.cells()

    def questions(self, cell: Cell, count: int) -> Iterator[Question]:
        """The cell's samples; a context begins with the prompt's text before it."""
        encode = self.tokenizer.encode
        for question in self.task.questions(cell, count):
            prompt = render_prompt(cell.subtask, _CONTEXT, question.text, **self.parts)
            before, after = prompt.split(_CONTEXT)
            yield replace(
                question,
                context_ids=np.concatenate([encode(before), question.context_ids]).astype(np.int32),
                question_ids=np.array(encode(after), np.int32),
            )

    def judge(self, cell: Cell, question: Question, output: str) -> dict[str, float]:
        return self.task.judge(cell, question, output)

    def protocol(self) -> dict[str, Any]:
        """The task's protocol, and what the prompts contain."""
        prompt = {**self.parts, "new_tokens": self.max_new_tokens}
        return {**self.task.protocol(), "trains_on": "nothing", "prompt": prompt}
