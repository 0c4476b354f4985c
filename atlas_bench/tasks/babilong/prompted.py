"""BABILong for models that were not trained on it: instruction, examples, context, question.

The context stays the task's own, token by token; only what stands around it is added, so that a
prompt of ten million tokens is never made of text twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from atlas_bench.tasks.babilong.prompts import MAX_NEW_TOKENS, render_prompt
from atlas_bench.tasks.babilong.task import BabilongTask
from atlas_bench.tasks.task import Asked, Cell

_CONTEXT = "\x00"  # where the context goes while the prompt around it is rendered


class PromptedBabilong:
    """A `QuestionTask` around a `BabilongTask`, whose samples, cells and metrics these are.

    Of a question's prompt, ``parts`` says what it has: instruction, examples, post_prompt.
    """

    def __init__(self, task: BabilongTask, parts: dict[str, bool]) -> None:
        self.task, self.parts = task, parts
        self.settings, self.tokenizer = task.settings, task.tokenizer
        self.vocab_size, self.samples = task.vocab_size, task.samples
        self.batch, self.cells, self.judge = task.batch, task.cells, task.judge
        self.max_new_tokens = MAX_NEW_TOKENS

    def asked(self, cell: Cell, count: int) -> Iterator[Asked]:
        """The cell's samples; their contexts begin with what the prompt says before."""
        encode = self.tokenizer.encode
        for each in self.task.asked(cell, count):
            prompt = render_prompt(cell.subtask, _CONTEXT, each.question, **self.parts)
            before, after = prompt.split(_CONTEXT)
            context = np.concatenate([encode(before), each.context_ids]).astype(np.int32)
            yield replace(each, context_ids=context, question_ids=np.array(encode(after), np.int32))

    def protocol(self) -> dict[str, Any]:
        """The task's, and what the prompts hold."""
        prompt = {**self.parts, "new_tokens": self.max_new_tokens}
        return {**self.task.protocol(), "trains_on": "nothing", "prompt": prompt}
