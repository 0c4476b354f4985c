"""Multi-query associative recall: pairs told once, keys asked at gaps of a power law.

Protocol: Arora et al. 2023 (Zoology, 2312.04927) and its repository (data/multiquery_ar.py). Drawn
for many examples at once: 100,000 of 128 tokens and 8 pairs take about a second on one core.
"""

from __future__ import annotations

import numpy as np

from atlas_bench.tasks.examples import UNLABELLED, Examples, generator

FILLER = 0  # keys are 1 .. V/2 - 1, values V/2 .. V - 1
BLOCK = 4096  # examples drawn from one seed: the first of a set are the same however many follow


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


def distinct(rng: np.random.Generator, rows: int, size: int, low: int, high: int) -> np.ndarray:
    """(rows, size) int16, each row ``size`` different numbers of low .. high - 1 in random order.

    Whatever stands earlier in its row already is drawn again until nothing does. That compares
    numbers for equality only, so every row of different numbers is as likely as any other.
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


def _gaps(
    rng: np.random.Generator, rows: int, size: int, space: int, power: float
) -> np.ndarray:
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
