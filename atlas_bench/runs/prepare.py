"""What a run needs before it can start: a device, a learner, its task, and a folder of its own."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from tempfile import TemporaryDirectory

import torch

from atlas_bench.artifacts.folder import DAMAGED_RECORD_NAME, RunFolder, sync, write_json
from atlas_bench.artifacts.records import try_record
from atlas_bench.artifacts.saved_config import write_config
from atlas_bench.config.errors import ConfigError
from atlas_bench.config.identity import first_difference
from atlas_bench.config.schema import HardwareSettings
from atlas_bench.console import plain_console
from atlas_bench.evaluation.context import EvaluationContext
from atlas_bench.evaluation.evaluators import draw
from atlas_bench.interrupts import StopSignal
from atlas_bench.runs.learners import learner_for
from atlas_bench.runs.learners.language_model import with_budget
from atlas_bench.runs.provenance import (
    changes_since_start,
    code_hash,
    facts_of_start,
    versions,
)
from atlas_bench.runs.resume import check_new
from atlas_bench.runs.settings import RunSettings
from atlas_bench.tasks.task import Task
from atlas_bench.tracking import make_tracker


def prepare(
    settings: RunSettings, folder: RunFolder, stop: StopSignal, commit: str | None
) -> tuple[EvaluationContext, Task]:
    """The context and the task of a run, in a folder that is its own.

    Raises ConfigError in one sentence, also for a resumed run whose text has changed.
    """
    device = _device(settings.hardware)
    learner = learner_for(settings)
    try:
        task = learner.prepare(folder, device)
        start = facts_of_start(task, commit)
        notes = changes_since_start(folder, task, start)
        notes += _draw_samples(settings, task)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    _claim(settings, folder)
    if not folder.started.is_file():
        write_json(folder.started, start)
    console = plain_console()
    console.print(
        f"{learner.name} at {learner.scale}: {learner.parameters:,} parameters, {device.type} "
        f"{learner.precision}, seed {settings.seed}, run {folder}"
    )
    logger = settings.logger
    tracker = make_tracker(logger.name, mode=logger.mode, project=logger.project)
    identity = {
        **asdict(settings),
        "content": start["text"],
        "tokenizer": task.tokenizer.fingerprint if task.tokenizer else None,
        "precision": learner.precision,
        "versions": versions(),
        "code": code_hash(),
    }
    return EvaluationContext(learner, folder, device, console, tracker, stop, notes, identity), task


def _draw_samples(settings: RunSettings, task: Task) -> list[str]:
    """Draw one sample of everything that the run needs, so that it does not fail after training.

    Sentences on the training, for the record. Raises ValueError in one sentence for what cannot be
    made.
    """
    task.protocol()  # reads the text that is held out
    if (validation := task.validation(settings.validation_samples)) is not None:
        draw(validation)
    if settings.mode != "train":
        draw(task)
        _draw_evaluations(settings, task)
    if settings.mode == "eval" or task.settings.stage is None:
        return []
    training = with_budget(settings.training, task)
    sizes = [
        training.step_sequences(stage) * task.batch(stage, 0, 1).inputs.size
        for stage in training.curriculum.stages
    ]
    steps = math.ceil(training.tokens / min(sizes))
    if steps <= training.warmup_steps:
        return [
            f"training ends inside the warm-up of the learning rate: training.tokens="
            f"{training.tokens} are at most {steps:,} steps, and training.warmup_steps="
            f"{training.warmup_steps}; models cannot be compared by such a run"
        ]
    return []


def _draw_evaluations(settings: RunSettings, task: Task) -> None:
    """Draw one sample of each cell of the run's other evaluations, with the run's tokenizer."""
    with TemporaryDirectory() as folder:
        tokenizer = task.tokenizer.save(folder) if settings.evaluations and task.tokenizer else None
        for name, other in settings.evaluations.items():
            try:
                made = replace(settings, task=other).make_task(tokenizer)
                draw(made)
            except ValueError as error:
                message = str(error).replace("task.", f"evaluations.{name}.", 1)
                raise ConfigError(message) from error
            trained = {"vocabulary": task.vocab_size, "readout": settings.task.readout}
            needed = {"vocabulary": made.vocab_size, "readout": other.readout}
            if settings.model.hub is None and (difference := first_difference(trained, needed)):
                raise ConfigError(
                    f"evaluations.{name}: task={other.name} needs a model with a "
                    f"{difference.key} of {difference.now}, and task={settings.task.name} gives it "
                    f"one of {difference.before}"
                )


def _device(hardware: HardwareSettings) -> torch.device:
    has_gpu = torch.cuda.is_available()
    if hardware.device == "cuda" and not has_gpu:
        raise ConfigError("hardware.device=cuda, but torch sees no GPU; use auto or cpu")
    if hardware.threads:
        torch.set_num_threads(hardware.threads)
    return torch.device("cuda" if has_gpu and hardware.device != "cpu" else "cpu")


def _claim(settings: RunSettings, folder: RunFolder) -> None:
    """Make ``folder`` this run's own, and set a record aside that cannot be read."""
    if settings.resume is False:
        check_new(folder)
    if try_record(folder)[1] is not None:
        folder.record.replace(folder.path / DAMAGED_RECORD_NAME)
    write_config(folder.config, asdict(settings))
    for parent in folder.path.absolute().parents[:2]:  # outputs/DATE holds its name, outputs DATE's
        sync(parent)
