"""MQAR: what is told, asked and wanted; how gaps are drawn; the grids; errors."""

from __future__ import annotations

import numpy as np
import pytest

from atlas_bench.seeding import generator
from atlas_bench.tasks.examples import UNLABELLED
from atlas_bench.tasks.mqar import (
    GRIDS,
    MqarSettings,
    MqarTask,
    _gaps,
    mqar_examples,
)
from atlas_bench.tasks.stages import Stage
from atlas_bench.tasks.task import TokenPredictions
from atlas_bench.text.settings import TextSettings

GOLDEN = {  # the same on every machine; a changed hash means changed examples
    (128, 8, False, 1): "3fc3b1d1d2cbe6ca",
    (128, 8, True, 1): "bd5815876e8dbbd1",
    (64, 4, False, 3): "d3ecd869dd881109",
    (1024, 256, True, 1): "368508fd29173074",
}


@pytest.mark.parametrize("shape", GOLDEN)
def test_golden_hashes(shape: tuple[int, int, bool, int]) -> None:
    length, pairs, random, passes = shape
    found = mqar_examples(
        length=length, pairs=pairs, count=64, random_non_queries=random, passes=passes
    )
    assert found.fingerprint == GOLDEN[shape]


@pytest.mark.parametrize(("length", "pairs", "passes"), [(128, 8, 1), (64, 16, 1), (64, 4, 3)])
@pytest.mark.parametrize("random", [False, True])
def test_every_key_told_is_asked_once_and_wants_its_value(
    length: int, pairs: int, passes: int, random: bool
) -> None:
    found = mqar_examples(
        length=length, pairs=pairs, count=200, random_non_queries=random, passes=passes,
        vocab_size=512, seed="x",
    )  # fmt: skip
    told = 2 * pairs * passes
    for inputs, targets in zip(found.inputs.tolist(), found.targets.tolist(), strict=True):
        mapping = dict(zip(inputs[0:told:2], inputs[1:told:2], strict=True))
        assert len(mapping) == len(set(mapping.values())) == pairs
        assert inputs[:told] == inputs[: 2 * pairs] * passes
        assert all(1 <= key < 256 <= value < 512 for key, value in mapping.items())
        asked = [i for i, target in enumerate(targets) if target != UNLABELLED]
        assert all(i >= told and i % 2 == 0 for i in asked)
        assert sorted(inputs[i] for i in asked) == sorted(mapping)
        assert all(targets[i] == mapping[inputs[i]] for i in asked)
        rest = [token for i, token in enumerate(inputs[told:], told) if i not in asked]
        assert (len(set(rest)) > 1 if random else set(rest) <= {0}) or not rest


def test_gaps_are_drawn_one_after_another_without_replacement() -> None:
    """The first by p, the second by p without the first, against the sum over all firsts."""
    rates = np.arange(1, 7) ** -0.99
    p = rates / rates.sum()
    second = [sum(p[i] * p[j] / (1 - p[i]) for i in range(6) if i != j) for j in range(6)]
    drawn = _gaps(generator("gaps"), 60_000, 3, 6, 0.01)
    for place, expected in ((0, p), (1, second)):
        share = np.bincount(drawn[:, place], minlength=6) / len(drawn)
        np.testing.assert_allclose(share, expected, atol=0.008)
    assert all(len(set(row)) == 3 for row in drawn[:200].tolist())
    everything = _gaps(generator("gaps"), 50, 6, 6, 0.01)
    assert all(sorted(row) == list(range(6)) for row in everything.tolist())


def test_the_first_examples_do_not_depend_on_how_many_follow() -> None:
    few, many = (mqar_examples(length=64, pairs=4, count=count) for count in (100, 5000))
    assert (many.inputs[:100] == few.inputs).all()
    assert len(np.unique(many.inputs, axis=0)) == 5000


def task(seed: int = 0, **changes: object) -> MqarTask:
    settings = MqarSettings(train_examples=300, test_examples=50, **changes)
    return MqarTask(settings, TextSettings(), seed=seed, question_every=10)


def test_splits_share_no_example_and_only_training_follows_the_run_s_seed() -> None:
    one, other = task(0), task(1)
    cell = one.cells()[0]

    def rows(batches) -> set[bytes]:
        return {row.tobytes() for batch in batches for row in batch.inputs}

    train = rows(one.batch(Stage(), i * 50, 50) for i in range(6))

    def validated(task: MqarTask) -> set[bytes]:
        return rows(task.validation(0).labelled_batches(cell))

    valid, test = validated(one), rows(one.labelled_batches(cell))
    assert (len(train), len(valid), len(test)) == (300, 256, 50)
    assert not train & (valid | test)
    assert not valid & test
    assert rows(other.labelled_batches(cell)) == test
    assert validated(other) == valid
    assert not rows(other.batch(Stage(), i * 50, 50) for i in range(6)) & train


def test_validation_is_on_the_cells_that_are_trained_on() -> None:
    based = task(grid="based")
    assert [cell.tokens for cell in based.validation(9).cells()] == [64, 128, 256, 256, 256]
    assert len(based.cells()) == 7
    batches = based.validation(9).labelled_batches(based.validation(9).cells()[1])
    assert [batch.inputs.shape for batch in batches] == [(9, 128)]


def test_grids_are_the_protocol_s() -> None:
    zoology, based = GRIDS["zoology"], GRIDS["based"]
    assert list(zoology.train) == list(zoology.test) == [(64, 4), (128, 8), (256, 16), (512, 64)]
    assert set(zoology.train.values()) == {100_000}
    assert based.random_non_queries
    assert sum(based.train.values()) == 180_000
    assert list(based.test)[-1] == (1024, 256)
    own = task(grid=[{"length": 16, "pairs": 2}, {"length": 32, "pairs": 8}])
    assert [(c.subtask, c.length, c.tokens) for c in own.cells()] == [
        ("2 pairs", "16", 16), ("8 pairs", "32", 32),
    ]  # fmt: skip
    assert own.epoch_tokens == 300 * 48
    assert {own.batch(Stage(), i * 10, 10).inputs.shape[1] for i in range(20)} == {16, 32}
    random = task(grid="based", random_non_queries=False).protocol()
    assert not random["random_non_queries"]
    assert random["tested_on"]["64 tokens, 16 pairs"] == 50


def test_accuracy_is_averaged_over_examples() -> None:
    one = task()
    found = TokenPredictions(
        example=np.repeat([0, 1], 8), position=np.arange(16), target=np.zeros(16, dtype=np.int64),
        predicted=np.array([0] * 8 + [0] * 2 + [1] * 6), loss=np.zeros(16, dtype=np.float32),
    )  # fmt: skip
    (measured,) = one.judge(one.cells()[0], found)
    assert (measured.metric.name, measured.value, measured.samples) == ("accuracy", 0.625, 2)
    assert measured.correct == 1.25


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"grid": "zoologi"}, r"task\.grid=zoologi .*did you mean zoology\?"),
        ({"grid": []}, r"task\.grid=\[\] must be one of .*\[\{length: 128, pairs: 8\}\]"),
        ({"grid": [{"length": 128}]}, r"task\.grid=.* must be one of"),
        ({"grid": [{"length": 64, "pairs": 17}]}, "17 pairs and their queries need 68 tokens"),
        ({"grid": [{"length": 63, "pairs": 4}]}, "even length"),
        ({"grid": "zoology_512", "passes": 4}, "4 x 64 pairs and their queries need 640 tokens"),
        ({"grid": "based", "vocab_size": 400}, "different keys, but task.vocab_size=400 has 199"),
        ({"vocab_size": 40_000}, r"task\.vocab_size=40000 must be at least 16 and at most 32766"),
        ({"test_examples": 0}, r"task\.test_examples=0 must be at least 1"),
    ],
)
def test_what_cannot_be_drawn_names_the_key(change: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        MqarSettings(**change).check(TextSettings())
