"""A run's record: what was measured, and everything that could have changed it."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING

from atlas_bench.artifacts.saved_config import training_of_checkpoint
from atlas_bench.artifacts.schema import Record, Score
from atlas_bench.config.identity import as_dict
from atlas_bench.models.language_model import count_parameters
from atlas_bench.runs.provenance import _device_name, versions
from atlas_bench.runs.settings import model_name, scale_name
from atlas_bench.training.progress import Progress

if TYPE_CHECKING:
    from atlas_bench.artifacts.schema import Scores
    from atlas_bench.evaluation.context import Run


def record_of(
    run: Run,
    found: Scores,
    notes: list[str],
    progress: Progress,
    started_at: datetime.datetime,
) -> Record:
    """The record of a run that ended, but for its wall time."""
    settings, task = run.settings, run.task
    tokenizer = task.tokenizer
    config = as_dict(settings)
    if settings.mode == "eval":
        config |= training_of_checkpoint(settings.checkpoint)
    scored = {score.metric for score in found.scores}
    return Record(
        name=settings.name,
        model=model_name(settings),
        scale=scale_name(settings),
        task=task.settings.name,
        parameters=count_parameters(run.model),
        seed=config["seed"],
        scores=found.scores,
        depths=found.depths,
        metrics=[metric for metric in task.metrics if metric.name in scored],
        wall_seconds=0.0,
        train_seconds=round(progress.seconds, 2),
        train_tokens=progress.tokens,
        versions=versions(),
        git_commit=run.commit,
        device=_device_name(run.device),
        tokenizer={
            "name": tokenizer.name if tokenizer else None,
            "fingerprint": tokenizer.fingerprint if tokenizer else None,
            "vocab_size": task.vocab_size,
        },
        protocol={
            **task.protocol(),
            "evaluation_seed": task.settings.seed,
            "trained": settings.mode != "eval",
            "train_tokens": progress.tokens,
        },
        config=config,
        started_at=started_at.isoformat(timespec="seconds"),
        notes=notes,
        state_bytes=_state_bytes(run, found.scores),
    )


def _state_bytes(run: Run, scores: list[Score]) -> int | None:
    """Of one sequence at the longest length that was scored: a recurrent model's at any length."""
    return run.model.state_bytes(1, max((score.length_tokens for score in scores), default=0))
