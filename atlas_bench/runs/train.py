"""Training within a run."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch

from atlas_bench.artifacts import checkpoint
from atlas_bench.config.errors import ConfigError
from atlas_bench.evaluation.context import Run
from atlas_bench.evaluation.evaluate import validation_task
from atlas_bench.evaluation.labelled import accuracy
from atlas_bench.tasks.stages import Stage
from atlas_bench.tasks.task import LABELLED, Task
from atlas_bench.training.callbacks import ProgressBar, TrackerLog
from atlas_bench.training.loop import Trainer
from atlas_bench.training.progress import Progress
from atlas_bench.training.settings import TrainingSettings


def train(run: Run) -> Progress:
    """Train, resuming where the folder holds a checkpoint; returns the Progress."""
    settings = run.settings
    training = _with_epochs(settings.training, run.task)
    asked = validation_task(run) if training.validate_every else None
    trainer = Trainer(
        run.model,
        _batches(run.task),
        training,
        folder=run.folder.path,
        tokenizer=run.task.tokenizer,
        device=run.device,
        precision=run.precision,
        forward=torch.compile(run.model) if settings.hardware.compile else None,
        validate=partial(accuracy, replace(run, task=asked))
        if asked is not None and asked.kind == LABELLED
        else None,
        callbacks=[ProgressBar(run.console), TrackerLog(run.logger.log)],
        should_stop=run.stop,
    )
    if settings.resume is not False and run.folder.last_checkpoint.is_file():
        source = checkpoint.find_checkpoint(run.folder.path)
        trainer.resume(source)
        run.console.print(f"resuming at step {trainer.progress.step} from {source}")
    return trainer.run()


def _with_epochs(training: TrainingSettings, task: Task) -> TrainingSettings:
    """The budget in tokens where it is given in passes over the task's training set."""
    if training.epochs is None:
        return training
    if task.epoch_tokens is None:
        raise ConfigError(
            f"training.epochs={training.epochs} is for tasks with a fixed training set, but "
            f"task={task.settings.name} does not have one; set training.tokens"
        )
    return replace(training, tokens=round(training.epochs * task.epoch_tokens))


def _batches(task: Task):
    """The task's batches; what it cannot make is a mistake in the config."""

    def batch(stage: Stage, first: int, count: int):
        try:
            return task.batch(stage, first, count)
        except ValueError as error:
            raise ConfigError(str(error)) from error

    return batch
