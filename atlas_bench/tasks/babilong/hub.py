"""The published BABILong sets, read through ``datasets`` when a task needs them.

``RMT-team/babilong``: 100 samples for each task and length, 0k to 10M for qa1 to qa10 and only 0k
for qa11 to qa20. ``babilong-1k-samples``: 1,000 (or 999) up to 128k for qa1 to qa5, and 0k for all
twenty. Configuration = length, split = subtask, columns input, question, target. The text is
tokenised here, so the measured length is that of our tokenizer, not the GPT-2 length in the name.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np

from atlas_bench.naming import cause
from atlas_bench.tasks.babilong.sample import Sample
from atlas_bench.text.tokenizer import Tokenizer

HUNDRED_SAMPLES = "RMT-team/babilong"
THOUSAND_SAMPLES = "RMT-team/babilong-1k-samples"
_THOUSAND_LENGTHS = ("0k", "1k", "2k", "4k", "8k", "16k", "32k", "64k", "128k")
LENGTHS = (*_THOUSAND_LENGTHS, "256k", "512k", "1M", "10M")
_THOUSAND_SUBTASKS = ("qa1", "qa2", "qa3", "qa4", "qa5")
TEXT_SUBTASKS = tuple(f"qa{number}" for number in range(1, 11))  # the others have only facts


class SourceError(ValueError):
    """A published set is unavailable; the message is one sentence that names the key to change."""


def hub_repository(subtask: str, length: str, count: int) -> str:
    """The set with ``count`` samples: the small one, or the larger one if it exists."""
    larger = length == "0k" or (length in _THOUSAND_LENGTHS and subtask in _THOUSAND_SUBTASKS)
    return THOUSAND_SAMPLES if count > 100 and larger else HUNDRED_SAMPLES


def hub_samples(
    subtask: str, length: str, count: int, *, tokenizer: Tokenizer, first: int = 0
) -> Iterator[Sample]:
    """The published samples ``first`` to ``first + count - 1``, in their order.

    Raises ValueError naming ``task.lengths`` for a length that was not published, and SourceError
    when the package, the network or the set fails.
    """
    if length not in LENGTHS:
        raise ValueError(
            f"task.lengths: {length!r} was not published; choose from {', '.join(LENGTHS)}"
        )
    if subtask not in TEXT_SUBTASKS and length != "0k":
        raise ValueError(
            f"task.lengths: {subtask} was published only at 0k; choose 0k, a subtask from qa1 to "
            "qa10, or task.source=generated"
        )
    rows = _load(hub_repository(subtask, length, first + count), length, subtask)
    return (_sample(subtask, row, tokenizer) for row in islice(rows, first, first + count))


def _load(repository: str, length: str, subtask: str) -> Any:
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise SourceError(
            "task.source: hub needs the package datasets; install it or choose generated"
        ) from error
    try:
        rows = datasets.load_dataset(repository, length, split=subtask)
    except Exception as error:  # the hub client raises a dozen unrelated types
        raise SourceError(
            f"task.source: could not read {subtask} at {length} of {repository} from the Hugging "
            f"Face hub ({cause(error)}); check the network, or choose generated"
        ) from error
    missing = {"input", "question", "target"} - set(rows.column_names)
    if missing:
        raise SourceError(
            f"task.source: {repository} has no column {', '.join(sorted(missing))}; "
            "its layout has changed"
        )
    return rows


def _sample(subtask: str, row: dict[str, str], tokenizer: Tokenizer) -> Sample:
    return Sample(
        subtask=subtask,
        context_ids=np.array(tokenizer.encode(" " + row["input"].strip()), dtype=np.int32),
        question=row["question"],
        question_ids=tokenizer.encode_phrase(" " + row["question"].strip()),
        answer=row["target"],
        answer_ids=tokenizer.encode_phrase(" " + row["target"].strip()),
        facts=(),
        fact_token_positions=np.zeros(0, dtype=np.int64),
    )
