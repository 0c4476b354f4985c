"""Scores of both kinds of task: what the model is asked, what is counted, and by which depth."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from atlas_bench.artifacts.folder import RunFolder
from atlas_bench.artifacts.metrics import ACCURACY, PERPLEXITY, Metric, lower
from atlas_bench.config.errors import ConfigError
from atlas_bench.config.schema import HardwareSettings
from atlas_bench.console import plain_console
from atlas_bench.evaluation.context import EvaluationContext
from atlas_bench.evaluation.evaluators import EVALUATORS, evaluate
from atlas_bench.evaluation.token_predictions import predict
from atlas_bench.models.build import build_model
from atlas_bench.models.settings import MemorySettings, ModelSettings, ScaleSettings
from atlas_bench.runs.learners.language_model import TrainedModel
from atlas_bench.runs.learners.online import OnlineNetworks
from atlas_bench.runs.settings import RunSettings
from atlas_bench.tasks.learnability.task import LearnabilitySettings
from atlas_bench.tasks.task import (
    LABELLED,
    QUESTIONS,
    Batch,
    Cell,
    MetricValue,
    Question,
    TaskSettings,
    TokenPredictions,
)
from atlas_bench.tracking import NoTracker

MODEL = build_model(
    ModelSettings(
        memory=MemorySettings(optimizer="momentum", chunk=8, bounded_step=True, gate="hard_sigmoid")
    ),
    ScaleSettings(width=16, layers=2, heads=2),
    vocab_size=32,
    seed=0,
).double()
RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, 32, (3, 21), dtype=np.int32)
LOSS = lower("loss", "nats")
MASK = RNG.random((3, 20)) < 0.3


class Words:
    """A tokenizer of numbers."""

    end_id = 1

    def decode(self, ids: list[int]) -> str:
        return " ".join(map(str, ids))


class Questions:
    kind, settings, vocab_size = QUESTIONS, TaskSettings(), 32
    metrics = (Metric("third"),)
    tokenizer, samples, max_new_tokens = Words(), 5, 2

    def __init__(self, broken: bool = False) -> None:
        self.broken = broken

    def cells(self) -> list[Cell]:
        return [Cell("a", "short", 4), Cell("b", "long", 19)]

    def protocol(self) -> dict[str, str]:
        return {}

    def questions(self, cell: Cell, count: int) -> Iterator[Question]:
        if self.broken:
            raise ValueError("task.lengths: too short")
        for index in range(count):
            context = TOKENS[index % 3, : cell.tokens]
            yield Question(context, TOKENS[0, :2], "?", (str(index),), index / 4)

    def judge(self, cell: Cell, question: Question, output: str) -> dict[str, float]:
        return {
            "third": int(question.references[0]) / 3 if int(question.references[0]) < 4 else 0.0
        }


class Labels:
    kind, metrics = LABELLED, (ACCURACY, LOSS)

    def cells(self) -> list[Cell]:
        return [Cell("a", "20", 20)]

    def labelled_batches(self, cell: Cell) -> Iterator[Batch]:
        for rows in (slice(0, 2), slice(2, 3)):
            yield Batch(TOKENS[rows, :-1], TOKENS[rows, 1:], MASK[rows])

    def judge(self, cell: Cell, predictions: TokenPredictions) -> list[MetricValue]:
        self.found = predictions
        return [
            MetricValue(cell, ACCURACY, 0.5, 4, correct=2),
            MetricValue(cell, LOSS, float(predictions.loss.mean()), len(predictions.loss)),
        ]


class Perplexities(Questions):
    """Every answer has a perplexity of 2.5."""

    metrics = (PERPLEXITY,)

    def judge(self, cell: Cell, question: Question, output: str) -> dict[str, float]:
        return {"perplexity": 2.5}


def context(folder: Path) -> EvaluationContext:
    learner = TrainedModel(RunSettings(hardware=HardwareSettings(prefill_chunk=7)))
    learner.model = MODEL
    return EvaluationContext(
        learner, RunFolder(folder), torch.device("cpu"), plain_console(), NoTracker(),
        should_stop=lambda: False,
    )  # fmt: skip


@torch.no_grad()
def test_labelled_positions_are_scored_as_one_forward_pass_does(tmp_path: Path) -> None:
    task = Labels()
    scores = evaluate(context(tmp_path), task).scores
    hidden, _ = MODEL(torch.from_numpy(TOKENS[:, :-1]).long())
    rows, columns = np.nonzero(MASK)
    order = np.lexsort((task.found.position, task.found.example))
    assert task.found.example[order].tolist() == rows.tolist()
    assert task.found.position[order].tolist() == columns.tolist()
    wanted = torch.from_numpy(TOKENS[:, 1:][MASK]).long()
    logits = MODEL.logits(hidden[torch.from_numpy(MASK)])
    losses = F.cross_entropy(logits, wanted, reduction="none")
    assert task.found.target[order].tolist() == wanted.tolist()
    assert task.found.predicted[order].tolist() == logits.argmax(-1).tolist()
    np.testing.assert_allclose(task.found.loss[order], losses, rtol=1e-6)
    accuracy, loss = scores
    assert (accuracy.value, accuracy.samples) == (0.5, 4)
    assert accuracy.ci_low < 0.5 < accuracy.ci_high
    assert loss.ci_low is None
    assert loss.value == pytest.approx(losses.mean().item(), rel=1e-6)
    assert loss.measured_tokens_mean == 20


def test_chunks_change_no_prediction() -> None:
    batch = Batch(TOKENS[:, :-1], TOKENS[:, 1:], MASK)
    whole = predict(MODEL, batch, prefill_chunk=64)
    parts = predict(MODEL, batch, prefill_chunk=3)
    order = np.lexsort((parts.position, parts.example))
    np.testing.assert_allclose(parts.loss[order], whole.loss, rtol=1e-6)


def test_questions_are_judged_and_counted_by_depth(tmp_path: Path) -> None:
    (tmp_path / "predictions.jsonl").write_text("of an evaluation that was stopped\n")
    found = evaluate(context(tmp_path), Questions())
    assert [(s.subtask, s.length_name, s.samples) for s in found.scores] == [
        ("a", "short", 5), ("b", "long", 5),
    ]  # fmt: skip
    for score in found.scores:
        assert score.value == pytest.approx((0 + 1 / 3 + 2 / 3 + 1) / 5)
        assert 0 < score.ci_low < score.value < score.ci_high < 1
    # Depths 0, 0.25, 0.5, 0.75 and 1, the last of which lies in the last tenth.
    assert [(d.depth_low, d.value) for d in found.depths if d.subtask == "b"] == [
        (0.0, 0.0), (0.2, pytest.approx(1 / 3)), (0.5, pytest.approx(2 / 3)), (0.7, 1.0),
        (0.9, 0.0),
    ]  # fmt: skip
    rows = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert len(rows) == 10
    assert rows[1]["third"] == pytest.approx(1 / 3)
    assert rows[6] | {"output": ""} == rows[1] | {
        "subtask": "b", "length": "long", "context_tokens": 19, "output": "",
    }  # fmt: skip


def test_what_a_task_cannot_make_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"task\.lengths: too short"):
        evaluate(context(tmp_path), Questions(broken=True))


def test_a_metric_above_1_has_no_interval(tmp_path: Path) -> None:
    scores = evaluate(context(tmp_path), Perplexities()).scores
    assert [(score.value, score.ci_low, score.ci_high) for score in scores] == [
        (2.5, None, None)
    ] * 2


def test_what_a_learner_cannot_do_is_one_sentence(tmp_path: Path) -> None:
    online = context(tmp_path)
    online.learner = OnlineNetworks(RunSettings(task=LearnabilitySettings()))
    for task, what in ((Questions(), "answer questions"), (Labels(), "predict token by token")):
        with pytest.raises(ConfigError, match=f"model=mlp_2x1_adam cannot {what}; choose another"):
            evaluate(online, task)


def test_a_kind_of_task_is_one_file_and_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An evaluator is found by the kind of its task."""
    (tmp_path / "counting.py").write_text(
        "def evaluate(context, task):\n    return [context.learner.name, *task.cells()]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(EVALUATORS, "counted", "counting:evaluate")
    task = Labels()
    task.kind = "counted"
    found = evaluate(context(tmp_path), task)
    assert found == [ModelSettings().name, Cell("a", "20", 20)]
