"""In-context recall as in "Just read twice" (Arora et al. 2024): prompt, window, metric.

A document ends with a question, written as the beginning of a sentence that the model continues.
The model is right if its output up to the end of the line contains an answer. A document longer
than the window is cut around the answer, in tokens of the model itself. Source: the paper's
repository (HazyResearch/prefix-linear-attention, lm-eval-harness: api/task.py,
tasks/based_*/task.py).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Protocol

CONTEXT_TOKENS = 2048  # tokens of document, question and answer together
ANSWER_TOKENS = 50  # tokens of these that are reserved for the answer
_MARKS = re.compile(r"\[PAR\]|\[DOC\]|\[TLE\]")  # marks of paragraphs and titles in TriviaQA


class Encoder(Protocol):
    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...


def window(text: str, answers: Sequence[str], tokenizer: Encoder, tokens: int) -> str:
    """At most ``tokens`` tokens of ``text``, half of them before the answer.

    The answer is the first occurrence, ignoring case, of the first answer that the text contains.
    Without one, the window is at the beginning of the text.
    """
    text = text.strip()
    ids = tokenizer.encode(text)
    if len(ids) <= tokens:
        return text
    lower = text.lower()
    found = (lower.find(answer.lower()) for answer in answers if answer)
    place = next((at for at in found if at >= 0), 0)
    before = len(tokenizer.encode(text[:place]))
    start = max(0, before - tokens // 2)
    return tokenizer.decode(ids[start : start + tokens])


def prompt(document: dict[str, Any]) -> str:
    """The context without marks and without copies of the question at its end, and the question."""
    question = document["question"].strip()
    context = _MARKS.sub("", document["context"]).strip()
    while question and context.lower().endswith(question.lower()):
        context = context[: -len(question)]
    return f"{context.strip().strip('.')}. {question}"


def contains(output: str, answers: Sequence[str]) -> bool:
    """Whether the output contains an answer, ignoring case."""
    return any(answer.lower() in output.lower() for answer in answers)


def process_results(document: dict[str, Any], results: Sequence[str]) -> dict[str, float]:
    """lm-eval's hook: the metrics of one document, from the model's output."""
    return {"contains": float(contains(results[0], document["answers"]))}
