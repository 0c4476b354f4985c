"""Multi-query associative recall (MQAR): pairs told once, keys asked at gaps of a power law.

Protocol: Arora et al. 2023 (Zoology, 2312.04927) and its repository (data/multiquery_ar.py, the
configs of its Figure 2 and of Based). Examples are drawn many at once: 100,000 of 128 tokens and
8 pairs take less than a second on one core. See docs/synthetic.md.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from atlas_bench.naming import check_choice
from atlas_bench.seeding import generator
from atlas_bench.tasks.examples import UNLABELLED, Examples, Passes, distinct, mean_by_example
from atlas_bench.tasks.stages import Stage
from atlas_bench.tasks.task import Batch, Cell, Labelled, Measured, TaskSettings, check_counts
from atlas_bench.text.settings import TextSettings

VALIDATION_EXAMPLES = 256  # a cell that is trained on
EVALUATION_BATCH = 128


@dataclass(frozen=True)
class Grid:
    """Cells (length, pairs) with how many examples of each: to train on, and to be tested with."""

    train: dict[tuple[int, int], int]
    test: dict[tuple[int, int], int]
    random_non_queries: bool


def _grid(cells: list[tuple[int, int]], train: int = 100_000, test: int = 3_000) -> Grid:
    return Grid(dict.fromkeys(cells, train), dict.fromkeys(cells, test), False)


ZOOLOGY = [(64, 4), (128, 8), (256, 16), (512, 64)]
GRIDS = {
    # Figure 2 of Zoology trains one model a cell; `zoology` trains one on all four
    **{f"zoology_{length}": _grid([(length, pairs)]) for length, pairs in ZOOLOGY},
    "zoology": _grid(ZOOLOGY),
    "based": Grid(
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
    """Which cells, and what null leaves to the protocol of the grid."""

    name: str = "mqar"
    grid: Any = "zoology_128"  # one of GRIDS, or a list of {length: 128, pairs: 8}
    vocab_size: int = 8192  # keys are its lower half, values its upper
    random_non_queries: bool | None = None  # random tokens, not zeros, where nothing is asked
    gap_power: float = 0.01  # 1 is uniform, less prefers short gaps
    passes: int = 1  # how often the pairs are told
    train_examples: int | None = None  # a cell
    test_examples: int | None = None  # a cell

    stage = Stage  # lengths are the grid's
    default_stages = (Stage(),)


def mqar_grid(task: MqarSettings) -> Grid:
    """The grid with the settings' own numbers in it. Raises ValueError for one that cannot be."""
    if isinstance(task.grid, str):
        check_choice("task.grid", task.grid, GRIDS)
        grid = GRIDS[task.grid]
    else:
        try:
            cells = [(int(cell["length"]), int(cell["pairs"])) for cell in task.grid]
        except (TypeError, KeyError, ValueError):
            cells = []
        if not cells:
            raise ValueError(
                f"task.grid={task.grid} must be one of {', '.join(GRIDS)} or a list such as "
                f"[{{length: 128, pairs: 8}}]"
            )
        grid = _grid(cells)
    random = task.random_non_queries
    return Grid(
        {cell: task.train_examples or count for cell, count in grid.train.items()},
        {cell: task.test_examples or count for cell, count in grid.test.items()},
        grid.random_non_queries if random is None else random,
    )


def check_mqar(task: MqarSettings, text: TextSettings) -> None:
    """Raise ValueError in one sentence for cells that cannot be drawn."""
    check_counts(task, "passes", "train_examples", "test_examples")
    if not 16 <= task.vocab_size < 32768 or task.vocab_size % 2:
        raise ValueError(f"task.vocab_size={task.vocab_size} must be even, from 16 to 32766")
    grid = mqar_grid(task)
    for length, pairs in {**grid.train, **grid.test}:
        check_cell(length, pairs, passes=task.passes, vocab_size=task.vocab_size)


class MqarTask:
    """A `LabelledTask` with a fixed training set: see `atlas_bench.tasks.task`."""

    tokenizer = None

    def __init__(
        self, settings: MqarSettings, text: TextSettings, *, seed: int, question_every: int
    ) -> None:
        self.settings, self.seed = settings, seed
        self.vocab_size = settings.vocab_size
        self.grid = mqar_grid(settings)
        self._split, self._scored = "test", self.grid.test

    def batch(self, stage: Stage, first: int, count: int) -> Batch:
        """Examples of the training sets."""
        return self._train.batch(first, count)

    @property
    def epoch_tokens(self) -> int:
        """Of one pass over the training sets."""
        return sum(length * count for (length, _), count in self.grid.train.items())

    def validation(self, samples: int) -> MqarTask:
        """The cells that are trained on, with examples in neither the training nor the test set."""
        task = copy.copy(self)
        task._split = "valid"
        task._scored = dict.fromkeys(self.grid.train, samples or VALIDATION_EXAMPLES)
        return task

    def cells(self) -> list[Cell]:
        """Every length and number of pairs that is tested."""
        return [Cell(f"{pairs} pairs", str(length), length) for length, pairs in self._scored]

    def labelled_batches(self, cell: Cell) -> Iterator[Batch]:
        """The cell's test examples."""
        key = (cell.tokens, int(cell.subtask.split()[0]))
        yield from self._draw(key, self._scored[key], self._split).batches(EVALUATION_BATCH)

    def judge(self, cell: Cell, found: Labelled) -> list[Measured]:
        """The accuracy of each example's queries, averaged over examples."""
        correct = mean_by_example(found)
        return [Measured(cell, "accuracy", correct.mean(), len(correct), float(correct.sum()))]

    def protocol(self) -> dict[str, Any]:
        """The grid in full, how examples are drawn and what is counted."""
        settings = self.settings

        def named(cells: dict[tuple[int, int], int]) -> dict[str, int]:
            return {f"{length} tokens, {pairs} pairs": n for (length, pairs), n in cells.items()}

        return {
            "grid": settings.grid if isinstance(settings.grid, str) else "own",
            "trains_on": named(self.grid.train),
            "tested_on": named(self.grid.test),
            "random_non_queries": self.grid.random_non_queries,
            "gap_power": settings.gap_power,
            "passes": settings.passes,
            "accuracy": "of the queries of an example, averaged over examples",
            "chance": {cell.subtask: 1 / int(cell.subtask.split()[0]) for cell in self.cells()},
        }

    @cached_property
    def _train(self) -> Passes:
        sets = [self._draw(cell, count, "train") for cell, count in self.grid.train.items()]
        return Passes(sets, self.seed)

    def _draw(self, cell: tuple[int, int], count: int, split: str) -> Examples:
        """A split's examples: those to train on follow the run's seed, all others the task's."""
        settings = self.settings
        length, pairs = cell
        return mqar_examples(
            length=length,
            pairs=pairs,
            count=count,
            vocab_size=settings.vocab_size,
            power=settings.gap_power,
            random_non_queries=self.grid.random_non_queries,
            passes=settings.passes,
            seed=f"{split} {self.seed if split == 'train' else settings.seed}",
        )


# the generator ------------------------------------------------------------------------------

FILLER = 0  # keys are 1 .. V/2 - 1, values V/2 .. V - 1
BLOCK = 1024  # examples drawn from one seed: the first of a set are the same however many follow


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

    The pairs k1 v1 k2 v2 .. come first, ``passes`` times. Every key then stands once more, at an
    even distance 2 g behind them; gaps g are drawn without replacement with p(g) in proportion to
    (g + 1)^(power - 1), the most likely first. The target at a query is the key's value, which is
    not told again. All else is FILLER, or with ``random_non_queries`` a token of the whole
    vocabulary.

    Raises ValueError, naming ``task.grid``, where the pairs and their queries do not fit.
    """
    check_cell(length, pairs, passes=passes, vocab_size=vocab_size)
    parts = [
        _draw_block(
            generator("mqar", seed, length, pairs, passes, start),
            min(BLOCK, count - start),
            (length, pairs, passes, vocab_size, power, random_non_queries),
        )
        for start in range(0, count, BLOCK)
    ]
    return Examples(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def check_cell(length: int, pairs: int, *, passes: int, vocab_size: int) -> None:
    """Raise ValueError in one sentence where a cell of the grid cannot be drawn."""
    cell = f"task.grid: {{length: {length}, pairs: {pairs}}}"
    if length < 2 or length % 2 or pairs < 1:
        raise ValueError(f"{cell} must have an even length and at least one pair")
    needed = 2 * pairs * (passes + 1)
    if needed > length:
        raise ValueError(
            f"{cell} cannot be: {passes} x {pairs} pairs and their queries need {needed} tokens"
        )
    if pairs > vocab_size // 2 - 1:
        raise ValueError(
            f"{cell} needs {pairs} different keys and task.vocab_size={vocab_size} has "
            f"{vocab_size // 2 - 1}"
        )


def _draw_block(
    rng: np.random.Generator, count: int, shape: tuple
) -> tuple[np.ndarray, np.ndarray]:
    """A whole block is drawn even where fewer are wanted."""
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

    Drawing one after another without replacement is the order of exponential times with rates p
    (Efraimidis and Spirakis 2006).
    """
    rates = np.arange(1, space + 1, dtype=np.float64) ** (power - 1)
    times = rng.standard_exponential((rows, space)) / rates
    first = np.argpartition(times, size - 1, 1)[:, :size] if size < space else None
    if first is None:
        return np.argsort(times, 1)
    order = np.argsort(np.take_along_axis(times, first, 1), 1)
    return np.take_along_axis(first, order, 1)
