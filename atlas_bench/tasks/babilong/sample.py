"""One BABILong sample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Sample:
    """One question after its context.

    The model reads ``context_ids`` (int32: facts and noise), ``question_ids`` and the tokenizer's
    ``answer_id``, and is to give ``answer_ids`` and ``end_id``. ``fact_token_positions`` is where
    in the context each of ``facts`` begins. ``length_tokens`` is the measured context length.
    For published samples, whose facts cannot be told from the noise, ``facts`` is empty.
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
