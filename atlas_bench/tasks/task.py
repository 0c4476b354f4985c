"""The contract of a task: its settings, its training batches and what is evaluated.

A task has a kind, which says how it is evaluated. ``questions``: answered in words after a context
(`QuestionTask`). ``labelled``: predictions at labelled positions (`LabelledTask`). ``suite``: asked
and judged by lm-eval (tasks/suites). ``online``: learnt while it is measured, without a language
model (tasks/learnability). evaluation/ has an evaluator for each kind. A task knows no model.

Legend: B sequences of T tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np

from atlas_bench.artifacts.metrics import Metric
from atlas_bench.config.bounds import check_bounds
from atlas_bench.tasks.stages import Stage
from atlas_bench.text.settings import TextSettings
from atlas_bench.text.tokenizer import Tokenizer

QUESTIONS, LABELLED, SUITE, ONLINE = "questions", "labelled", "suite", "online"
# Added to a task's seed: no one chooses a seed that is so far from 0.
_VALIDATION_SEED = 1_000_003


@dataclass
class TaskSettings:
    """The keys of all tasks; each task adds its own.

    The class attributes and methods below say what a task is before it is made: making a task can
    mean reading a corpus.
    """

    name: str = "???"  # the chosen file
    seed: int = 42  # draws the evaluation samples; training uses the run's seed

    kind: ClassVar[str]  # which evaluator scores the task
    stage: ClassVar[type[Stage] | None] = None  # None: the task has no training data
    default_stages: ClassVar[tuple[Stage, ...]] = ()  # where training.curriculum.stages is null
    readout: ClassVar[str] = "next"  # where a model reads its predictions; see models/readout.py

    def check(self, text: TextSettings) -> None:
        """Raise ValueError in one sentence, naming the key, for a task that cannot be run."""
        check_bounds(self, "task.")

    def make(self, text: TextSettings, *, seed: int, question_every: int) -> Task:
        """The task. ``seed`` is the run's; ``question_every`` is the mean number of tokens between
        two questions in training.

        Raises ValueError in one sentence for a text or tokenizer that is unavailable.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define make")

    def vocabulary_size(self, text: TextSettings) -> int:
        """The size of the vocabulary, as far as it is known before the task is made."""
        return text.vocab_size

    def summary(self) -> str:
        """The task with its subtasks and lengths, in a few words."""
        return self.name

    def for_validation(self, samples: int) -> Self:
        """The settings of the same task on ``samples`` other samples of each cell, to stop training
        and to choose settings by.

        Raises ValueError in one sentence for a task without other samples.
        """
        raise ValueError(
            f"validation_samples={samples}: task={self.name} has no samples besides those that it "
            f"is tested on; use validation_samples=0"
        )

    def with_other_samples(self, **counts: int) -> Self:
        """The settings with another seed of the evaluation samples and other sample counts."""
        return replace(self, seed=self.seed + _VALIDATION_SEED, **counts)


def summarize(name: str, subtasks: list[str], lengths: list[str] = ()) -> str:
    """A task's name with its subtasks, or their number where there are more than two."""
    named = subtasks if len(subtasks) <= 2 else [f"{len(subtasks)} subtasks"]
    return " ".join([name, *named, *lengths])


# what a task hands over ---------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """Sequences to train on or to be scored at.

    ``inputs`` and ``targets`` int32 (B, T); ``answer_mask`` bool (B, T) is True where a target
    counts. ``starts`` bool (B, T), where given, is True where a new document begins: the model
    forgets everything before it.
    """

    inputs: np.ndarray
    targets: np.ndarray
    answer_mask: np.ndarray
    starts: np.ndarray | None = None


@dataclass(frozen=True)
class Cell:
    """The subject of one score: a subtask at a length, with its name and its nominal tokens."""

    subtask: str
    length: str
    tokens: int


@dataclass(frozen=True)
class Question:
    """One question after its context.

    The model reads ``context_ids`` and ``question_ids`` (int32; a trained model's end with the
    tokenizer's ``answer_id``). The right answer is one or all of ``references``, as the task
    judges. ``depth`` is where in the context the answer lies, from 0 to 1.
    """

    context_ids: np.ndarray
    question_ids: np.ndarray
    text: str
    references: tuple[str, ...]
    depth: float | None = None


@dataclass(frozen=True)
class TokenPredictions:
    """A model's predictions at the labelled positions of a cell: flat arrays of equal length.

    ``example`` numbers the cell's sequences, ``position`` their tokens; ``target`` and
    ``predicted`` are tokens (int64), ``loss`` is in nats (float32).
    """

    example: np.ndarray
    position: np.ndarray
    target: np.ndarray
    predicted: np.ndarray
    loss: np.ndarray

    @property
    def is_right(self) -> np.ndarray:
        return self.predicted == self.target


@dataclass(frozen=True)
class MetricValue:
    """The value of one metric in a cell.

    ``correct`` of ``samples``, for a metric with an interval, is what the interval is of.
    """

    cell: Cell
    metric: Metric
    value: float
    samples: int
    correct: float | None = None


# tasks --------------------------------------------------------------------------------------


class Task(ABC):
    """One benchmark as a run's config sets it up.

    Every method raises ValueError in one sentence, naming the key, for what it cannot make.
    """

    metrics: tuple[Metric, ...]  # those that its scores may have
    tokenizer: Tokenizer | None = None  # None: its tokens have no text
    vocab_size: int
    epoch_tokens: int | None = None  # one pass over a fixed training set; None: it has no fixed set

    def __init__(
        self, settings: TaskSettings, text: TextSettings, *, seed: int, question_every: int
    ) -> None:
        """The arguments are those of `TaskSettings.make`."""
        self.settings, self.text = settings, text
        self.seed, self.question_every = seed, question_every

    @property
    def kind(self) -> str:
        return self.settings.kind

    def batch(self, stage: Stage, first: int, count: int) -> Batch:
        """Training sequences ``first`` to ``first + count - 1`` of a stage of `settings.stage`.
        The run's seed and these arguments alone decide them."""
        raise ValueError(f"task={self.settings.name} has no training data")

    @abstractmethod
    def cells(self) -> list[Cell]:
        """What is evaluated, in the order of the table."""

    @abstractmethod
    def protocol(self) -> dict[str, Any]:
        """How it is measured, for the record: runs whose protocols differ are not averaged."""

    def validation(self, samples: int) -> Task | None:
        """The same task on other samples, to stop training and to choose settings by; None where
        there are none. ``samples`` per cell; 0 takes the task's own validation split."""
        if not samples:
            return None
        settings = self.settings.for_validation(samples)
        return settings.make(self.text, seed=self.seed, question_every=self.question_every)

    def for_pretrained(self, prompt_parts: dict[str, bool]) -> Task:
        """The task as a pretrained model is asked; ``prompt_parts`` says which parts of a few-shot
        prompt it gets, for a task that has one."""
        return self


class QuestionTask(Task):
    """Questions answered in words."""

    max_new_tokens: int
    samples: int  # per cell

    @abstractmethod
    def questions(self, cell: Cell, count: int) -> Iterator[Question]:
        """The first ``count`` questions of a cell, fewer where a published set is smaller."""

    @abstractmethod
    def judge(self, cell: Cell, question: Question, output: str) -> dict[str, float]:
        """The value of each metric for one answer, from 0 to 1, by the metric's name."""


class LabelledTask(Task):
    """Sequences with labelled positions."""

    @abstractmethod
    def labelled_batches(self, cell: Cell) -> Iterator[Batch]:
        """The cell's evaluation sequences, the same for every run."""

    @abstractmethod
    def judge(self, cell: Cell, predictions: TokenPredictions) -> list[MetricValue]:
        """The cell's scores."""
