"""MAD: six small tasks that show what a sequence mixer can do. See docs/synthetic.md.

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

from atlas_bench.artifacts.metrics import ACCURACY, MACRO_ACCURACY
from atlas_bench.config.bounds import bounded
from atlas_bench.tasks.examples import Examples, Passes
from atlas_bench.tasks.mad.cases import BASELINE, SUBTASKS, make_case
from atlas_bench.tasks.mad.generators import mad_examples
from atlas_bench.tasks.stages import Stage
from atlas_bench.tasks.task import (
    LABELLED,
    Batch,
    Cell,
    LabelledTask,
    MetricValue,
    TaskSettings,
    TokenPredictions,
    summarize,
)
from atlas_bench.text.settings import TextSettings

BATCH = 128  # MAD's repository computes one test accuracy for each batch


@dataclass
class MadSettings(TaskSettings):
    """One case: a run trains and tests one model on it."""

    name: str = "mad"
    subtask: str = bounded("in_context_recall", one_of=SUBTASKS)
    # The baseline, or one factor of it changed: vocab_32, length_256, noise_0.4, ...
    change: str = BASELINE
    # Training examples; null: 12,800, or the number of the case.
    train_examples: int | None = bounded(None, at_least=1)
    test_examples: int = bounded(1280, at_least=1)  # the validation split has as many

    kind = LABELLED
    stage = Stage  # the case decides length and noise
    default_stages = (Stage(),)

    @property
    def readout(self) -> str:
        """Compression asks for all tokens at the last position."""
        return "last" if self.subtask == "compression" else "next"

    def check(self, text: TextSettings) -> None:
        super().check(text)
        make_case(self.subtask, self.change)
        if self.train_examples is not None and self.change.startswith("train_size"):
            raise ValueError(
                f"task.change={self.change} and task.train_examples={self.train_examples} both set "
                f"the number of examples; leave task.train_examples null"
            )

    def make(self, text: TextSettings, *, seed: int, question_every: int) -> MadTask:
        return MadTask(self, text, seed=seed, question_every=question_every)

    def vocabulary_size(self, text: TextSettings) -> int:
        return make_case(self.subtask, self.change).vocab

    def summary(self) -> str:
        return summarize(self.name, [self.subtask])

    def for_validation(self, samples: int) -> MadSettings:
        return self  # the task has a validation split


class MadTask(LabelledTask):
    """One case of MAD with a fixed training set."""

    metrics = (MACRO_ACCURACY, ACCURACY)

    def __init__(
        self, settings: MadSettings, text: TextSettings, *, seed: int, question_every: int
    ) -> None:
        super().__init__(settings, text, seed=seed, question_every=question_every)
        self.case = make_case(settings.subtask, settings.change)
        self.vocab_size = self.case.vocab
        self.train_examples = settings.train_examples or self.case.train_size
        self._split, self._scored = "test", settings.test_examples

    @property
    def epoch_tokens(self) -> int:
        return self._train.sets[0].inputs.size

    def batch(self, stage: Stage, first: int, count: int) -> Batch:
        """Examples of the training set."""
        return self._train.batch(first, count)

    def validation(self, samples: int) -> MadTask:
        """On examples that are neither trained nor tested on: as many as are tested, or
        ``samples``."""
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

    def judge(self, cell: Cell, predictions: TokenPredictions) -> list[MetricValue]:
        """``macro_accuracy``, of which MAD's scores are made, and ``accuracy`` over all tokens."""
        right = predictions.is_right
        examples = int(predictions.example.max()) + 1
        return [
            MetricValue(cell, MACRO_ACCURACY, macro_accuracy(predictions), examples),
            MetricValue(cell, ACCURACY, float(right.mean()), len(right), float(right.sum())),
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
        """A split's examples. The training split follows the run's seed, the others the task's."""
        training = split == "train"
        seed = self.seed if training else self.settings.seed
        return mad_examples(
            self.settings.subtask, self.case, count=count, training=training, seed=f"{split} {seed}"
        )


def macro_accuracy(predictions: TokenPredictions, batch: int = BATCH) -> float:
    """The accuracy of each token of the vocabulary, averaged over those in targets or predictions.

    MAD's Accuracy is torchmetrics' MulticlassAccuracy with its default ``average="macro"``: the
    mean over classes of hits / targets. A class that is only predicted counts 0, a class that is
    neither predicted nor a target is left out. Lightning logs it for each batch and weights the
    batches by their examples.
    """
    size = int(max(predictions.target.max(), predictions.predicted.max())) + 1
    total = examples = 0.0
    for number in np.unique(predictions.example // batch):
        inside = predictions.example // batch == number
        target, predicted = predictions.target[inside], predictions.predicted[inside]
        targets = np.bincount(target, minlength=size)
        hits = np.bincount(target[target == predicted], minlength=size)
        present = (targets + np.bincount(predicted, minlength=size)) > 0
        count = len(np.unique(predictions.example[inside]))
        total += count * float((hits / np.maximum(targets, 1))[present].mean())
        examples += count
    return total / examples
