"""Fixed sets of token sequences with targets at some positions, and the order of passes over them.

Synthetic tasks (MQAR, MAD) train on a fixed set in several passes. A pass has no state: the seed
and the batch's place in the run decide its examples, so a resumed run gets exactly the batches of
an uninterrupted run.

Legend: N examples of T tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from atlas_bench.seeding import generator
from atlas_bench.tasks.task import Batch, TokenPredictions

UNLABELLED = -1  # the target where nothing is asked


def distinct(rng: np.random.Generator, rows: int, size: int, low: int, high: int) -> np.ndarray:
    """(rows, size) int16; a row has ``size`` different numbers of low .. high - 1 in random order.

    Numbers that already appear earlier in their row are drawn again. This only compares numbers for
    equality, so all rows of different numbers are equally likely.
    """
    drawn = rng.integers(low, high, (rows, size), dtype=np.int16)
    unsure = np.arange(rows)
    while len(unsure):
        order = np.argsort(drawn[unsure], 1, kind="stable")
        ranked = np.take_along_axis(drawn[unsure], order, 1)
        row, place = np.nonzero(ranked[:, 1:] == ranked[:, :-1])
        again = rng.integers(low, high, len(row), dtype=np.int16)
        drawn[unsure[row], order[row, place + 1]] = again
        unsure = unsure[np.unique(row)]
    return drawn


@dataclass(frozen=True)
class Examples:
    """``inputs`` and ``targets`` (N, T) int16; a target is UNLABELLED where nothing is asked.

    They are int16 because a training set is in memory as a whole; vocabularies are below 32,768.
    """

    inputs: np.ndarray
    targets: np.ndarray

    def __post_init__(self) -> None:
        assert self.inputs.shape == self.targets.shape
        assert self.inputs.dtype == self.targets.dtype == np.int16

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def fingerprint(self) -> str:
        """A hash of all tokens and targets: equal on every machine, different if a draw changes."""
        joined = b"".join(part.astype("<i2").tobytes() for part in (self.inputs, self.targets))
        return hashlib.sha256(joined).hexdigest()[:16]

    def batch(self, rows: np.ndarray | slice) -> Batch:
        """The examples in ``rows``. Unlabelled targets become 0; the mask excludes them."""
        inputs, targets = self.inputs[rows], self.targets[rows]
        asked = targets != UNLABELLED
        return Batch(
            inputs=inputs.astype(np.int32),
            targets=np.where(asked, targets, 0).astype(np.int32),
            answer_mask=asked,
        )

    def batches(self, size: int) -> Iterator[Batch]:
        """All examples in order, ``size`` at a time."""
        for start in range(0, len(self), size):
            yield self.batch(slice(start, start + size))


def mean_by_example(predictions: TokenPredictions) -> np.ndarray:
    """(examples,) The share of each example's labelled positions that is predicted right."""
    right = np.bincount(predictions.example, predictions.is_right)
    return right / np.bincount(predictions.example)


class Passes:
    """Batches from one or more fixed sets, in passes that each have another order.

    A batch comes from one set, since sets may differ in length; sets take turns in proportion to
    their sizes. Every example of a set appears once before any appears again.
    """

    def __init__(self, sets: Sequence[Examples], seed: int) -> None:
        self.sets, self.seed = list(sets), seed

    def batch(self, first: int, count: int) -> Batch:
        """The training examples ``first`` .. ``first + count - 1`` of the run.

        Raises ValueError unless ``first`` is a multiple of ``count``: all batches of a run have one
        size.
        """
        number, rest = divmod(first, count)
        if rest:
            raise ValueError(f"example {first} is not the first of a batch of {count}")
        turns = [max(1, round(len(examples) / count)) for examples in self.sets]
        epoch, place = divmod(number, sum(turns))
        turn = int(_order(sum(turns), self.seed, "turns", epoch)[place])
        which = 0
        while turn >= turns[which]:
            turn -= turns[which]
            which += 1
        start = (epoch * turns[which] + turn) * count
        return self.sets[which].batch(self._rows(which, np.arange(start, start + count)))

    def _rows(self, which: int, numbers: np.ndarray) -> np.ndarray:
        """The rows of a set for the run's ``numbers``-th draws from it."""
        size = len(self.sets[which])
        rows = np.empty_like(numbers)
        for turn in range(numbers[0] // size, numbers[-1] // size + 1):
            inside = numbers // size == turn
            order = _order(size, self.seed, "examples", which, turn)
            rows[inside] = order[numbers[inside] % size]
        return rows


@lru_cache(maxsize=16)
def _order(size: int, *parts: object) -> np.ndarray:
    return generator(*parts).permutation(size)
