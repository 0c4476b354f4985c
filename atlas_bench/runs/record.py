"""A run's record: what was measured, and everything that could have changed it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from atlas_bench.artifacts.folder import read_lines
from atlas_bench.artifacts.metrics import Metric
from atlas_bench.artifacts.saved_config import training_of_checkpoint
from atlas_bench.artifacts.schema import Record, Score, Scores
from atlas_bench.evaluation.context import EvaluationContext
from atlas_bench.runs.provenance import TOKENIZER_KEYS, device_name, own_text_of, versions
from atlas_bench.runs.settings import RunSettings
from atlas_bench.tasks.task import Task
from atlas_bench.training.progress import Progress

EVALUATION_KEYS = ("lengths", "samples", "test_examples", "seed")  # of tasks; training ignores them


def make_record(
    settings: RunSettings,
    context: EvaluationContext,
    task: Task,
    scores: Scores,
    validation: list[Score],
    progress: Progress,
    *,
    metrics: Sequence[Metric],
    **provenance: Any,
) -> Record:
    """The record of a run that ends. ``metrics`` are those of ``validation``; ``provenance`` is
    its commit and its times."""
    learner, tokenizer = context.learner, task.tokenizer
    config, protocol = asdict(settings), task.protocol()
    own_text, changes = own_text_of(context.folder, task)
    if settings.mode == "eval" and (training := training_of_checkpoint(settings.checkpoint)):
        config |= training
        # The checkpoint's tokenizer is used, whatever the command's text says.
        text = training["trained_on"]["text"] or {}
        config["text"] |= {key: text[key] for key in TOKENIZER_KEYS if key in text}
        _correct_training(protocol, training["trained_on"]["task"] or {}, config["task"])
    scored = {score.metric for score in (*scores.scores, *validation)}
    declared = {metric.name: metric for metric in (*metrics, *task.metrics)}
    longest = max((score.length_tokens for score in scores.scores), default=0)
    return Record(
        name=settings.name,
        model=learner.name,
        scale=learner.scale,
        task=task.settings.name,
        parameters=learner.parameters,
        seed=config["seed"],
        scores=scores.scores,
        depths=scores.depths,
        validation=validation,
        metrics=[metric for name, metric in declared.items() if name in scored],
        train_seconds=round(progress.seconds, 2),
        train_tokens=progress.tokens,
        versions=versions(),
        device=device_name(context.device),
        tokenizer={
            "name": tokenizer.name if tokenizer else None,
            "fingerprint": tokenizer.fingerprint if tokenizer else None,
            "vocab_size": task.vocab_size,
        },
        protocol={
            **protocol,
            **own_text,
            "evaluation_seed": task.settings.seed,
            "trained": settings.mode != "eval",
            "train_tokens": progress.tokens,
        },
        config=config,
        notes=[*context.notes, *changes],
        sessions=read_lines(context.folder.sessions),
        stages=progress.ends,
        state_bytes=learner.state_bytes(longest),
        **provenance,
    )


def _correct_training(
    protocol: dict[str, Any], trained: dict[str, Any], evaluated: dict[str, Any]
) -> None:
    """Remove what a protocol says of training by ``evaluated``, where the checkpoint's task is
    another; a list in ``trains_on`` names the subtasks of these settings."""
    subtasks = protocol.get("trains_on")
    other_task = trained.get("name") != evaluated["name"]
    other_subtasks = isinstance(subtasks, list) and _training_of(trained) != _training_of(evaluated)
    if subtasks and (other_task or other_subtasks):
        del protocol["trains_on"]
        if other_task:
            protocol["trained_on"] = f"task={trained.get('name', 'unknown')}"


def _training_of(task: dict[str, Any]) -> dict[str, Any]:
    """The keys of a task that training depends on."""
    return {key: value for key, value in task.items() if key not in EVALUATION_KEYS}
