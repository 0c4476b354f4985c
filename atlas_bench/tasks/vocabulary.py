"""The tokenizer that all tasks on text share."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from atlas_bench.tasks.babi import SUBTASKS, wording
from atlas_bench.text.tokenizer import EMBEDDED, Tokenizer, make_tokenizer


def shared_tokenizer(
    source: str | Path = EMBEDDED, vocab_size: int = 1024, *, asks: bool = True
) -> Tokenizer:
    """``make_tokenizer`` with the words of all twenty subtasks, so that every run shares it.

    Raises ValueError naming ``text.tokenizer`` if the task ``asks`` in English and the tokenizer
    does not give its words back.
    """
    wording = _wording_of_all_subtasks()
    tokenizer = make_tokenizer(source, vocab_size=vocab_size, wording=wording)
    if asks:
        tokenizer.check_round_trip(
            [*(" " + phrase for phrase in wording), "\n0123456789-abcdef"], most_lost=0
        )
    return tokenizer


@cache  # takes a second, and a run asks again for its validation task
def _wording_of_all_subtasks() -> tuple[str, ...]:
    return tuple(phrase for subtask in SUBTASKS for phrase in wording(subtask))
