"""One BABILong sample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Sample:
    """One question after its context.

    The model reads ``context_ids`` (int32: facts and noise), ``question_ids`` and the tokenizer's
    ``answer_id``; the right output is ``answer_ids`` and ``end_id``. ``fact_token_positions`` are
    the places in the context where the ``facts`` begin. ``facts`` is empty for published samples,
    in which facts and noise cannot be told apart.
    """

    subtask: str
    context_ids: np.ndarray
    question: str
    question_ids: np.ndarray
    answer: str
    answer_ids: np.ndarray
    facts: tuple[str, ...]
    fact_token_positions: np.ndarray

    @property
    def length_tokens(self) -> int:
        """Tokens of the context: facts and noise, without the question."""
        return len(self.context_ids)
