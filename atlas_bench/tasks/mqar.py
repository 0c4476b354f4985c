"""Multi-query associative recall (MQAR): pairs of a key and a value, then queries of the keys.

The gaps before the queries follow a power law. Protocol: Arora et al. 2023 (Zoology, 2312.04927)
and its repository (data/multiquery_ar.py, the configs of its Figure 2 and of Based). Examples are
drawn in blocks: 100,000 of 128 tokens and 8 pairs take less than a second on one core. See
docs/synthetic.md.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from atlas_bench.artifacts.metrics import ACCURACY
from atlas_bench.config.bounds import bounded
from atlas_bench.naming import check_choice
from atlas_bench.seeding import generator
from atlas_bench.tasks.examples import UNLABELLED, Examples, Passes, distinct, mean_by_example
from atlas_bench.tasks.stages import Stage
from atlas_bench.tasks.task import (
    LABELLED,
    Batch,
    Cell,
    LabelledTask,
    MetricValue,
    TaskSettings,
    TokenPredictions,
)
from atlas_bench.text.settings import TextSettings

VALIDATION_EXAMPLES = 256  # per size that is trained on
EVALUATION_BATCH = 128

Size = tuple[int, int]  # an example's length in tokens, and its pairs


@dataclass(frozen=True)
class ExampleSets:
    """How many examples of each size there are to train on and to test with."""

    train: dict[Size, int]
    test: dict[Size, int]
    random_non_queries: bool


def _same_sizes(sizes: list[Size], train: int = 100_000, test: int = 3_000) -> ExampleSets:
    return ExampleSets(dict.fromkeys(sizes, train), dict.fromkeys(sizes, test), False)


ZOOLOGY = [(64, 4), (128, 8), (256, 16), (512, 64)]
GRIDS = {
    # Figure 2 of Zoology trains one model for each size; `zoology` trains one on all four.
    **{f"zoology_{length}": _same_sizes([(length, pairs)]) for length, pairs in ZOOLOGY},
    "zoology": _same_sizes(ZOOLOGY),
    "based": ExampleSets(
        train={(64, 4): 100_000}
        | dict.fromkeys([(128, 8), (256, 16), (256, 32), (256, 64)], 20_000),
        test=dict.fromkeys(
            [(64, 4), (64, 8), (64, 16), (128, 32), (256, 64), (512, 128), (1024, 256)], 1_000
        ),
        random_non_queries=True,
    ),
}


@dataclass
class MqarSettings(TaskSettings):
    """The sizes of the examples; null leaves a choice to the grid's protocol."""

    name: str = "mqar"
    grid: Any = "zoology_128"  # a name, or a list of {length: 128, pairs: 8}
    # An even number: keys are its lower half, values its upper half.
    vocab_size: int = bounded(8192, at_least=16, at_most=32766)
    random_non_queries: bool | None = None  # random tokens, not zeros, where nothing is asked
    gap_power: float = 0.01  # 1 is uniform, less prefers short gaps
    passes: int = bounded(1, at_least=1)  # how often the pairs are shown
    train_examples: int | None = bounded(None, at_least=1)  # training examples of each size
    test_examples: int | None = bounded(None, at_least=1)  # test examples of each size

    kind = LABELLED
    stage = Stage  # the grid decides the lengths
    default_stages = (Stage(),)

    def check(self, text: TextSettings) -> None:
        super().check(text)
        if self.vocab_size % 2:
            raise ValueError(f"task.vocab_size={self.vocab_size} must be even")
        sets = self.example_sets()
        for size in {**sets.train, **sets.test}:
            check_size(size, passes=self.passes, vocab_size=self.vocab_size)

    def make(self, text: TextSettings, *, seed: int, question_every: int) -> MqarTask:
        return MqarTask(self, text, seed=seed, question_every=question_every)

    def vocabulary_size(self, text: TextSettings) -> int:
        return self.vocab_size

    def for_validation(self, samples: int) -> MqarSettings:
        return self  # the task has a validation split

    def example_sets(self) -> ExampleSets:
        """The grid's sets with the settings' own numbers. Raises ValueError for a wrong grid."""
        if isinstance(self.grid, str):
            check_choice("task.grid", self.grid, GRIDS)
            sets = GRIDS[self.grid]
        else:
            try:
                sizes = [(int(each["length"]), int(each["pairs"])) for each in self.grid]
            except (TypeError, KeyError, ValueError):
                sizes = []
            if not sizes:
                raise ValueError(
                    f"task.grid={self.grid} must be one of {', '.join(GRIDS)} or a list such as "
                    f"[{{length: 128, pairs: 8}}]"
                )
            sets = _same_sizes(sizes)
        random = self.random_non_queries
        return ExampleSets(
            {size: self.train_examples or count for size, count in sets.train.items()},
            {size: self.test_examples or count for size, count in sets.test.items()},
            sets.random_non_queries if random is None else random,
        )


class MqarTask(LabelledTask):
    """Multi-query associative recall with a fixed training set."""

    metrics = (ACCURACY,)

    def __init__(
        self, settings: MqarSettings, text: TextSettings, *, seed: int, question_every: int
    ) -> None:
        super().__init__(settings, text, seed=seed, question_every=question_every)
        self.vocab_size = settings.vocab_size
        self.sets = settings.example_sets()
        self.epoch_tokens = sum(length * count for (length, _), count in self.sets.train.items())
        self._split, self._scored = "test", self.sets.test

    def batch(self, stage: Stage, first: int, count: int) -> Batch:
        """Examples of the training sets."""
        return self._train.batch(first, count)

    def validation(self, samples: int) -> MqarTask:
        """On the sizes of the training sets, with examples that are in no other set."""
        task = copy.copy(self)
        task._split = "valid"
        task._scored = dict.fromkeys(self.sets.train, samples or VALIDATION_EXAMPLES)
        return task

    def cells(self) -> list[Cell]:
        """Every size that is tested."""
        return [Cell(f"{pairs} pairs", str(length), length) for length, pairs in self._scored]

    def labelled_batches(self, cell: Cell) -> Iterator[Batch]:
        """The cell's test examples."""
        size = (cell.tokens, int(cell.subtask.split()[0]))
        yield from self._draw(size, self._scored[size], self._split).batches(EVALUATION_BATCH)

    def judge(self, cell: Cell, predictions: TokenPredictions) -> list[MetricValue]:
        """The accuracy of each example's queries, averaged over examples."""
        correct = mean_by_example(predictions)
        return [MetricValue(cell, ACCURACY, correct.mean(), len(correct), float(correct.sum()))]

    def protocol(self) -> dict[str, Any]:
        """The sizes, how examples are drawn and what is counted."""
        settings = self.settings

        def named(sizes: dict[Size, int]) -> dict[str, int]:
            return {f"{length} tokens, {pairs} pairs": n for (length, pairs), n in sizes.items()}

        return {
            "grid": settings.grid if isinstance(settings.grid, str) else "own",
            "trains_on": named(self.sets.train),
            "tested_on": named(self.sets.test),
            "random_non_queries": self.sets.random_non_queries,
            "gap_power": settings.gap_power,
            "passes": settings.passes,
            "accuracy": "of the queries of an example, averaged over examples",
            "chance": {cell.subtask: 1 / int(cell.subtask.split()[0]) for cell in self.cells()},
        }

    @cached_property
    def _train(self) -> Passes:
        sets = [self._draw(size, count, "train") for size, count in self.sets.train.items()]
        return Passes(sets, self.seed)

    def _draw(self, size: Size, count: int, split: str) -> Examples:
        """A split's examples. The training split follows the run's seed, the others the task's."""
        settings = self.settings
        length, pairs = size
        return mqar_examples(
            length=length,
            pairs=pairs,
            count=count,
            vocab_size=settings.vocab_size,
            power=settings.gap_power,
            random_non_queries=self.sets.random_non_queries,
            passes=settings.passes,
            seed=f"{split} {self.seed if split == 'train' else settings.seed}",
        )


# the generator ------------------------------------------------------------------------------

FILLER = 0  # keys are 1 .. V/2 - 1, values V/2 .. V - 1
BLOCK = 1024  # examples of one seed: the first of a set do not depend on how many follow


def mqar_examples(
    *,
    length: int,
    pairs: int,
    count: int,
    vocab_size: int = 8192,
    power: float = 0.01,
    random_non_queries: bool = False,
    passes: int = 1,
    seed: object = 0,
) -> Examples:
    """``count`` examples of ``length`` tokens: ``pairs`` distinct keys and values, then queries.

    The pairs k1 v1 k2 v2 .. come first, ``passes`` times. Every key then appears once more, at an
    even distance 2 g after them. Gaps g are drawn without replacement, the most likely first, with
    p(g) proportional to (g + 1)^(power - 1). The target at a query is the key's value, which is
    not told again. All other tokens are FILLER, or with ``random_non_queries`` random tokens of
    the whole vocabulary.

    Raises ValueError, naming ``task.grid``, where the pairs and their queries do not fit.
    """
    check_size((length, pairs), passes=passes, vocab_size=vocab_size)
    parts = [
        _draw_block(
            generator("mqar", seed, length, pairs, passes, start),
            min(BLOCK, count - start),
            (length, pairs, passes, vocab_size, power, random_non_queries),
        )
        for start in range(0, count, BLOCK)
    ]
    return Examples(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def check_size(size: Size, *, passes: int, vocab_size: int) -> None:
    """Raise ValueError in one sentence for a size of the grid that cannot be drawn."""
    length, pairs = size
    shown = f"task.grid: {{length: {length}, pairs: {pairs}}}"
    if length < 2 or length % 2 or pairs < 1:
        raise ValueError(f"{shown} must have an even length and at least one pair")
    needed = 2 * pairs * (passes + 1)
    if needed > length:
        raise ValueError(
            f"{shown} is too short: {passes} x {pairs} pairs and their queries need {needed} tokens"
        )
    if pairs > vocab_size // 2 - 1:
        raise ValueError(
            f"{shown} needs {pairs} different keys, but task.vocab_size={vocab_size} has "
            f"{vocab_size // 2 - 1}"
        )


def _draw_block(
    rng: np.random.Generator, count: int, shape: tuple
) -> tuple[np.ndarray, np.ndarray]:
    """The first ``count`` examples of a block, which is always drawn as a whole."""
    length, pairs, passes, vocab_size, power, random_non_queries = shape
    half = vocab_size // 2
    keys = distinct(rng, BLOCK, pairs, 1, half)
    values = distinct(rng, BLOCK, pairs, half, vocab_size)
    told = 2 * pairs * passes
    queries = told + 2 * _gaps(rng, BLOCK, pairs, (length - told) // 2, power)
    if random_non_queries:
        inputs = rng.integers(0, vocab_size, (BLOCK, length), dtype=np.int16)
    else:
        inputs = np.full((BLOCK, length), FILLER, dtype=np.int16)
    inputs[:, 0:told:2] = np.tile(keys, passes)
    inputs[:, 1:told:2] = np.tile(values, passes)
    targets = np.full((BLOCK, length), UNLABELLED, dtype=np.int16)
    np.put_along_axis(inputs, queries, keys, 1)
    np.put_along_axis(targets, queries, values, 1)
    return inputs[:count], targets[:count]


def _gaps(rng: np.random.Generator, rows: int, size: int, space: int, power: float) -> np.ndarray:
    """(rows, size) different gaps below ``space``, in the order in which they are drawn.

    The order of exponential times with rates p is that of draws without replacement (Efraimidis
    and Spirakis 2006).
    """
    rates = np.arange(1, space + 1, dtype=np.float64) ** (power - 1)
    times = rng.standard_exponential((rows, space)) / rates
    first = np.argpartition(times, size - 1, 1)[:, :size] if size < space else None
    if first is None:
        return np.argsort(times, 1)
    order = np.argsort(np.take_along_axis(times, first, 1), 1)
    return np.take_along_axis(first, order, 1)
