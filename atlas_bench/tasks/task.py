"""What every benchmark offers to a run, whatever it asks. Knows no model.

A task makes training batches and evaluation cells. A `QuestionTask` is answered in words after a
context, a `LabelledTask` token by token at labelled positions; evaluation/ does the answering. An
`OnlineTask` (online.py) is learnt while it is measured, without a language model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np

from atlas_bench.tasks.stages import Stage
from atlas_bench.text.tokenizer import Tokenizer


@dataclass
class TaskSettings:
    """What all tasks have; each adds its own keys."""

    name: str = "???"  # of the chosen file
    seed: int = 42  # of the evaluation samples; training uses the run's seed

    stage: ClassVar[type[Stage] | None] = None  # None: the task trains nothing
    default_stages: ClassVar[tuple[Stage, ...]] = ()  # where training.curriculum.stages is null


def check_named(task: TaskSettings, *keys: str) -> None:
    """Raise ValueError for a list of names that is empty."""
    for key in keys:
        if not getattr(task, key):
            raise ValueError(f"task.{key} is empty; name at least one")


def check_counts(task: TaskSettings, *keys: str) -> None:
    """Raise ValueError for a number below 1; None is left to the task."""
    for key in keys:
        value = getattr(task, key)
        if value is not None and value < 1:
            raise ValueError(f"task.{key}={value} must be at least 1")


@dataclass(frozen=True)
class Batch:
    """Sequences to train on or to be scored at.

    ``inputs`` and ``targets`` int32 (B, T); ``answer_mask`` bool (B, T) is True where a target
    counts. ``starts`` bool (B, T), where given, is True where a new document begins, before which
    the model is to forget everything.
    """

    inputs: np.ndarray
    targets: np.ndarray
    answer_mask: np.ndarray
    starts: np.ndarray | None = None


@dataclass(frozen=True)
class Cell:
    """What one score is about: a subtask at a length, with its name and nominal tokens."""

    subtask: str
    length: str
    tokens: int


@dataclass(frozen=True)
class Asked:
    """One question after its context.

    The model reads ``context_ids`` and ``question_ids`` (int32; the second ends with the
    tokenizer's ``answer_id``) and is to answer one or all of ``references``, as the task judges.
    ``depth`` is where in the context the answer lies, from 0 to 1.
    """

    context_ids: np.ndarray
    question_ids: np.ndarray
    question: str
    references: tuple[str, ...]
    depth: float | None = None


@dataclass(frozen=True)
class Labelled:
    """What was found at the labelled positions of a cell: flat arrays of equal length.

    ``example`` counts the cell's sequences, ``position`` their tokens; ``wanted`` and ``predicted``
    are tokens (int64), ``loss`` is in nats (float32).
    """

    example: np.ndarray
    position: np.ndarray
    wanted: np.ndarray
    predicted: np.ndarray
    loss: np.ndarray


@dataclass(frozen=True)
class Measured:
    """One number of a labelled cell; ``correct`` of ``samples`` where it is a proportion."""

    cell: Cell
    metric: str
    value: float
    samples: int
    correct: float | None = None


class Task(Protocol):
    """One benchmark as a run's config sets it up; ``tokenizer`` is None where tokens have no text.

    Every method raises ValueError in one sentence, naming the key, for what cannot be had.
    """

    settings: TaskSettings
    tokenizer: Tokenizer | None
    vocab_size: int

    def batch(self, stage: Stage, first: int, count: int) -> Batch:
        """Training sequences ``first`` to ``first + count - 1`` of a stage of `settings.stage`.
        The run's seed and these arguments alone decide them."""

    def cells(self) -> list[Cell]:
        """What is evaluated, in the order of the table."""

    def protocol(self) -> dict[str, Any]:
        """How it is measured, for the record: runs whose protocols differ are not averaged."""


@runtime_checkable
class QuestionTask(Task, Protocol):
    """Questions answered in words."""

    max_new_tokens: int
    samples: int  # of each cell

    def asked(self, cell: Cell, count: int) -> Iterator[Asked]:
        """The first ``count`` questions of a cell, fewer where a published set is smaller."""

    def judge(self, cell: Cell, asked: Asked, output: str) -> dict[str, float]:
        """Each metric of one answer, from 0 to 1."""


@runtime_checkable
class LabelledTask(Task, Protocol):
    """Sequences with labelled positions."""

    def labelled_batches(self, cell: Cell) -> Iterator[Batch]:
        """The cell's evaluation sequences, the same for every run."""

    def judge(self, cell: Cell, found: Labelled) -> list[Measured]:
        """The cell's scores."""
