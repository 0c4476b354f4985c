"""Passes over fixed sets: every example once a pass, decided by seed and place alone."""

from __future__ import annotations

import numpy as np
import pytest

from atlas_bench.seeding import generator
from atlas_bench.tasks.examples import UNLABELLED, Examples, Passes, distinct, mean_by_example
from atlas_bench.tasks.task import TokenPredictions


def numbered(size: int, length: int = 4, first: int = 0) -> Examples:
    """Example i holds i everywhere and asks for it at its last position."""
    inputs = np.repeat(np.arange(first, first + size, dtype=np.int16)[:, None], length, 1)
    targets = np.full_like(inputs, UNLABELLED)
    targets[:, -1] = inputs[:, -1]
    return Examples(inputs, targets)


def seen(passes: Passes, batches: int, count: int) -> list[list[int]]:
    return [passes.batch(i * count, count).inputs[:, 0].tolist() for i in range(batches)]


def test_a_batch_is_made_of_whole_examples_with_what_is_asked() -> None:
    batch = Passes([numbered(10)], 0).batch(0, 5)
    assert batch.inputs.dtype == batch.targets.dtype == np.int32
    assert (batch.answer_mask == [False, False, False, True]).all()
    assert (batch.targets[:, -1] == batch.inputs[:, -1]).all()
    assert (batch.targets[:, :-1] == 0).all()


@pytest.mark.parametrize(("size", "count"), [(12, 4), (10, 4), (7, 1), (3, 5)])
def test_every_example_comes_once_before_any_comes_again(size: int, count: int) -> None:
    batches = max(1, round(size / count))
    numbers = np.array(seen(Passes([numbered(size)], 3), batches * size, count)).ravel()
    assert np.bincount(numbers, minlength=size).tolist() == [batches * count] * size
    if size % count == 0:
        passes = numbers.reshape(-1, size)
        assert all(sorted(one) == list(range(size)) for one in passes.tolist())
        assert len({tuple(one) for one in passes.tolist()}) > 1, "each pass has its own order"


def test_batches_depend_on_seed_and_place_alone() -> None:
    expected = seen(Passes([numbered(40)], 1), 20, 8)
    later = Passes([numbered(40)], 1)
    assert later.batch(13 * 8, 8).inputs[:, 0].tolist() == expected[13]
    assert seen(Passes([numbered(40)], 2), 20, 8) != expected
    with pytest.raises(ValueError, match="example 5 is not the first of a batch of 8"):
        later.batch(5, 8)


def test_sets_take_turns_in_proportion_to_their_sizes() -> None:
    passes = Passes([numbered(60, length=4), numbered(20, length=8, first=100)], 0)
    shapes = [passes.batch(i * 10, 10).inputs.shape for i in range(16)]
    assert shapes.count((10, 4)) == 12
    assert shapes[:8].count((10, 8)) == shapes[8:].count((10, 8)) == 2
    assert shapes[:8] != shapes[8:], "in another order every pass"
    numbers = [n for batch in seen(passes, 16, 10) for n in batch]
    assert sorted(numbers) == sorted([*range(60), *range(100, 120)] * 2)


def test_distinct_rows_are_uniform_over_ordered_tuples() -> None:
    drawn = distinct(generator("a"), 24_000, 3, 5, 9)
    codes = (drawn - 5) @ np.array([16, 4, 1])
    counts = np.bincount(codes)
    assert (counts > 0).sum() == 4 * 3 * 2
    assert counts[counts > 0].min() > 880  # 1000 expected, 31 its deviation
    assert counts.max() < 1120
    whole = distinct(generator("b"), 50, 60, 0, 61)
    assert all(len(set(row)) == 60 for row in whole.tolist())


def test_accuracy_is_of_an_example_before_it_is_of_all() -> None:
    found = TokenPredictions(
        example=np.array([0, 0, 0, 1]), position=np.arange(4), target=np.array([1, 2, 3, 4]),
        predicted=np.array([1, 0, 3, 9]), loss=np.zeros(4, dtype=np.float32),
    )  # fmt: skip
    assert mean_by_example(found).tolist() == [pytest.approx(2 / 3), 0.0]
