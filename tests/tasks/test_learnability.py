"""The learnability study: its random maps, its scores, errors."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest

from atlas_bench.seeding import generator
from atlas_bench.tasks.learnability import targets as learnability_targets
from atlas_bench.tasks.learnability.online import LearnerSettings
from atlas_bench.tasks.learnability.targets import TARGETS, sequence
from atlas_bench.tasks.learnability.task import (
    LearnabilitySettings,
    LearnabilityTask,
)
from atlas_bench.tasks.task import ONLINE
from atlas_bench.text.settings import TextSettings

DIMENSION, RANK, WINDOW = 6, 2, 4


def drawn(target: str, length: int, *parts: int) -> tuple[np.ndarray, np.ndarray]:
    return sequence(target, length, DIMENSION, rank=RANK, window=WINDOW, parts=parts or (0, 1, 2))


def test_golden_inputs() -> None:
    inputs, _ = drawn("low_rank", 50)
    digest = hashlib.sha256(inputs.astype("<f4").tobytes()).hexdigest()[:16]
    assert digest == "d820b22abb6c2c0e"


def test_the_low_rank_map_is_linear_and_of_its_rank() -> None:
    inputs, outputs = drawn("low_rank", 50)
    found, _, rank, _ = np.linalg.lstsq(inputs, outputs, rcond=None)
    assert rank == DIMENSION
    np.testing.assert_allclose(inputs @ found, outputs, atol=1e-5)
    assert np.linalg.matrix_rank(found, tol=1e-4) == RANK


def gelu(x: np.ndarray) -> np.ndarray:
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def by_definition(target: str, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and outputs with one softmax a token, from the same draws in float64."""
    inputs = generator("learnability", "inputs", 0, 1, 2).standard_normal(
        (length, DIMENSION), dtype=np.float32
    )
    rng = generator("learnability", target, 0, 1, 2)

    def weights() -> np.ndarray:
        found = rng.standard_normal((DIMENSION, DIMENSION), dtype=np.float32)
        return found / math.sqrt(DIMENSION)

    read = inputs.astype(float)
    if target != "mlp":
        q, k, v = (inputs @ weights() for _ in range(3))
        for at in range(length):
            begin = max(0, at + 1 - WINDOW) if target == "window_attention_mlp" else 0
            scores = np.exp(k[begin : at + 1] @ q[at] / math.sqrt(DIMENSION))
            read[at] = scores / scores.sum() @ v[begin : at + 1]
    first, second = weights(), weights()
    return read if target == "attention_inputs" else inputs, gelu(read @ first) @ second


@pytest.mark.parametrize("target", TARGETS[1:])
def test_other_maps_are_as_defined(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learnability_targets, "QUERIES", 5)  # in pieces, the last of them short
    for found, expected in zip(drawn(target, 23), by_definition(target, 23), strict=True):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("target", TARGETS)
def test_a_longer_sequence_begins_as_a_shorter_one(target: str) -> None:
    for short, long in zip(drawn(target, 9), drawn(target, 20), strict=True):
        np.testing.assert_allclose(short, long[:9], atol=1e-6)


def task(run_seed: int = 0, **changes: object) -> LearnabilityTask:
    settings = LearnabilitySettings(dimension=DIMENSION, rank=RANK, **changes)
    return LearnabilityTask(settings, TextSettings(), seed=run_seed, question_every=1)


def test_sequences_differ_by_number_and_by_both_seeds() -> None:
    inputs, outputs = task(length=5, sequences=3).pairs()
    assert inputs.shape == outputs.shape == (3, 5, DIMENSION)
    fewer, _ = task(length=5, sequences=2).pairs()
    assert (fewer == inputs[:2]).all()
    others = (task(1, length=5, sequences=3), task(length=5, sequences=3, seed=7))
    for other in others:
        assert not np.isin(other.pairs()[0], inputs).any()
    assert len(np.unique(inputs)) == inputs.size


def test_scores_are_means_over_ranges_of_positions() -> None:
    asked = task(length=200, sequences=2, target="mlp")
    assert asked.kind == ONLINE
    losses = np.stack([np.arange(200.0), np.arange(200.0) + 1])
    found = [
        (each.cell.subtask, each.cell.length, each.cell.tokens, each.metric.name, each.value)
        for each in asked.judge(losses)
    ]
    assert found == [
        ("mlp", "0-63", 64, "relative_loss", 32.0),
        ("mlp", "64-127", 128, "relative_loss", 96.0),
        ("mlp", "128-199", 200, "relative_loss", 164.0),
        ("mlp", "200", 200, "mean_relative_loss", 100.0),
        ("mlp", "200", 200, "final_relative_loss", 150.0),
    ]
    assert {each.samples for each in asked.judge(losses)} == {2}
    # runs of different targets stand in one table
    assert asked.protocol() == task(length=200, sequences=2).protocol()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"target": "lowrank"}, r"task\.target=lowrank is not one of .*did you mean low_rank\?"),
        ({"rank": 7}, r"task\.rank=7 is more than task\.dimension=6"),
        ({"window": 0}, r"task\.window=0 must be at least 1"),
        ({"sequences": 0}, r"task\.sequences=0 must be at least 1"),
        ({"learner": LearnerSettings(layers=0)}, r"task\.learner\.layers=0 must be at least 1"),
        ({"learner": LearnerSettings(optimizer="adamw")}, r"did you mean adam\?"),
        ({"learner": LearnerSettings(activation="tanh")}, r"task\.learner\.activation=tanh is not"),
        ({"learner": LearnerSettings(learning_rate=0.0)}, r"learning_rate=0\.0 must be above 0"),
    ],
)
def test_bad_values_end_in_a_sentence(changes: dict, said: str) -> None:
    settings = LearnabilitySettings(**({"dimension": DIMENSION, "rank": RANK} | changes))
    with pytest.raises(ValueError, match=said):
        settings.check(TextSettings())
