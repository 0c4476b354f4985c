"""MAD: six small tasks that tell apart what sequence mixers can do. See docs/synthetic.md.

``cases`` are the difficulties and the scores, ``generators`` draw the sequences. Poli et al. 2024,
Mechanistic Design and Scaling of Hybrid Architectures, 2403.17844.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from atlas_bench.tasks.examples import Examples, Passes
from atlas_bench.tasks.mad.cases import (
    BASELINE,
    SUBTASKS,
    changes,
    make_case,
    subtask_score,
)
from atlas_bench.tasks.mad.generators import Case, mad_examples
from atlas_bench.tasks.stages import Stage
from atlas_bench.tasks.task import Batch, Cell, Labelled, Measured, TaskSettings, check_counts
from atlas_bench.text.settings import TextSettings

__all__ = [
    "SUBTASKS",
    "Case",
    "MadSettings",
    "MadTask",
    "changes",
    "check_mad",
    "macro_accuracy",
    "mad_examples",
    "make_case",
    "subtask_score",
]

BATCH = 128  # MAD's, over which its repository computes a test accuracy at a time


@dataclass
class MadSettings(TaskSettings):
    """One case: a run trains and tests one model on it."""

    name: str = "mad"
    subtask: str = "in_context_recall"  # one of the six
    change: str = (
        BASELINE  # one factor of the baseline changed: vocab_32, length_256, noise_0.4, ..
    )
    train_examples: int | None = None  # null: 12,800, or what the case says
    test_examples: int = 1280  # and as many to validate by

    stage = Stage  # length and noise are the case's
    default_stages = (Stage(),)

    @property
    def vocab_size(self) -> int:
        return make_case(self.subtask, self.change).vocab

    @property
    def readout(self) -> str:
        """Compression asks for all tokens at the last position."""
        return "last" if self.subtask == "compression" else "next"


def check_mad(task: MadSettings, text: TextSettings) -> None:
    """Raise ValueError in one sentence for a case that MAD has not."""
    make_case(task.subtask, task.change)
    check_counts(task, "train_examples", "test_examples")
    if task.train_examples is not None and task.change.startswith("train_size"):
        raise ValueError(
            f"task.change={task.change} and task.train_examples={task.train_examples} both say how "
            f"many examples there are; leave task.train_examples null"
        )


class MadTask:
    """A `LabelledTask` with a fixed training set: see `atlas_bench.tasks.task`."""

    tokenizer = None

    def __init__(
        self, settings: MadSettings, text: TextSettings, *, seed: int, question_every: int
    ) -> None:
        self.settings, self.seed = settings, seed
        self.case = make_case(settings.subtask, settings.change)
        self.vocab_size = self.case.vocab
        self.train_examples = settings.train_examples or self.case.train_size
        self._split, self._scored = "test", settings.test_examples

    def batch(self, stage: Stage, first: int, count: int) -> Batch:
        """Examples of the training set."""
        return self._train.batch(first, count)

    @property
    def epoch_tokens(self) -> int:
        """Of one pass over the training set."""
        return self._train.sets[0].inputs.size

    def validation(self, samples: int) -> MadTask:
        """Asked in the same way, in neither other set; as many as are tested, or ``samples``."""
        task = copy.copy(self)
        task._split, task._scored = "valid", samples or self._scored
        return task

    def cells(self) -> list[Cell]:
        """The one case."""
        settings, length = self.settings, self.case.length
        change = "" if settings.change == BASELINE else f" {settings.change}"
        return [Cell(settings.subtask + change, str(length), length)]

    def labelled_batches(self, cell: Cell) -> Iterator[Batch]:
        """The test examples."""
        yield from self._draw(self._split, self._scored).batches(BATCH)

    def judge(self, cell: Cell, found: Labelled) -> list[Measured]:
        """``macro_accuracy``, which MAD's scores are made of, and ``accuracy`` over all tokens."""
        right = found.predicted == found.wanted
        examples = int(found.example.max()) + 1
        return [
            Measured(cell, "macro_accuracy", macro_accuracy(found), examples),
            Measured(cell, "accuracy", float(right.mean()), len(right), float(right.sum())),
        ]

    def protocol(self) -> dict[str, Any]:
        """The case, its sizes and what is counted."""
        settings, case = self.settings, self.case
        return {
            "subtask": settings.subtask,
            "change": settings.change,
            "trains_on": f"{self.train_examples} examples, the same in every pass",
            "protocol_train_examples": case.train_size,
            "test_examples": settings.test_examples,
            "vocab_size": case.vocab,
            "length": case.length,
            "readout": settings.readout,
            "macro_accuracy": f"mean over tokens of their accuracy, in batches of {BATCH}",
        }

    @cached_property
    def _train(self) -> Passes:
        return Passes([self._draw("train", self.train_examples)], self.seed)

    def _draw(self, split: str, count: int) -> Examples:
        """A split's examples: those to train on follow the run's seed, all others the task's."""
        training = split == "train"
        seed = self.seed if training else self.settings.seed
        return mad_examples(
            self.settings.subtask, self.case, count=count, training=training, seed=f"{split} {seed}"
        )


def macro_accuracy(found: Labelled, batch: int = BATCH) -> float:
    """Accuracy token by token of the vocabulary, averaged over those that were wanted or predicted.

    MAD's Accuracy is torchmetrics' MulticlassAccuracy with its default ``average="macro"``: the
    mean over classes of hits / wanted, 0 for what was predicted and never wanted, without classes
    that were neither. Lightning logs it by batch and weighs the batches by their examples.
    """
    size = int(max(found.wanted.max(), found.predicted.max())) + 1
    total = examples = 0.0
    for number in np.unique(found.example // batch):
        inside = found.example // batch == number
        wanted, predicted = found.wanted[inside], found.predicted[inside]
        asked = np.bincount(wanted, minlength=size)
        hits = np.bincount(wanted[wanted == predicted], minlength=size)
        present = (asked + np.bincount(predicted, minlength=size)) > 0
        count = len(np.unique(found.example[inside]))
        total += count * float((hits / np.maximum(asked, 1))[present].mean())
        examples += count
    return total / examples
