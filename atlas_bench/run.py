"""One run: task -> model -> train -> evaluate -> record."""

from __future__ import annotations

import datetime
import signal
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from atlas_bench.config import ConfigError, RunSettings, as_dict, check_machine
from atlas_bench.console import progress_bars
from atlas_bench.evaluation.labelled import accuracy
from atlas_bench.evaluation.scoring import Scores, evaluate, validate, validation_task
from atlas_bench.evaluation.streaming import DoesNotFit
from atlas_bench.interrupts import Interrupted, StopSignal
from atlas_bench.models.accounting import account, as_text
from atlas_bench.models.language_model import count_parameters
from atlas_bench.preparation import Run, prepare
from atlas_bench.recording import model_name, record_of, scale_name
from atlas_bench.report.plots import (
    POSITION_LOSS,
    plot_accuracy,
    plot_depths,
    plot_position_loss,
    plot_training,
)
from atlas_bench.report.records import RECORD_NAME, Record, Score, read_record, write_record
from atlas_bench.report.selection import validation_score
from atlas_bench.report.tables import rich_tables
from atlas_bench.tasks.online import OnlineSettings, OnlineTask
from atlas_bench.tasks.suites import ZERO_SHOT
from atlas_bench.tasks.task import LabelledTask, Task
from atlas_bench.training import checkpoint
from atlas_bench.training.loop import Progress, Trainer, TrainingError
from atlas_bench.training.online import build_learner
from atlas_bench.training.settings import TrainingSettings

EVALUATIONS = "evaluations"  # the folder of those, in the run's


class RunError(RuntimeError):
    """The run failed for a reason that is no bug; the message is one sentence."""


class Stopped(RuntimeError):
    """A signal stopped the run; everything up to here is saved."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal = signal_number


def describe(settings: RunSettings) -> str:
    """Parameters, state and operations of the model, by models/accounting.py; runs nothing.

    Raises ConfigError for a model that cannot be built.
    """
    check_machine(settings)
    if isinstance(settings.task, OnlineSettings):
        learner = build_learner(settings.task, settings.seed, 1)
        return (
            f"{model_name(settings)} at {scale_name(settings)}: {count_parameters(learner):,} "
            f"parameters\n  state of one sequence in float32, bytes: {learner.state_bytes(1, 0):,}"
        )
    # of tasks without text their own
    vocab_size = getattr(settings.task, "vocab_size", settings.text.vocab_size)
    readout = getattr(settings.task, "readout", "next")
    try:
        found = account(settings.model, settings.scale, vocab_size=vocab_size, readout=readout)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return as_text(f"{settings.model.name} at {settings.scale.name}", found)


def execute(settings: RunSettings, folder: Path) -> Path:
    """Do what the config says in ``folder`` and return the path of the record.

    Raises ConfigError for input that only shows now (a checkpoint, a text folder, a length),
    RunError when training cannot go on, Stopped after a signal.
    """
    started, started_at = time.perf_counter(), datetime.datetime.now(datetime.UTC)
    check_machine(settings)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with StopSignal() as stop:
            return _execute(settings, folder, started, started_at, stop)[1]
    except (DoesNotFit, checkpoint.CheckpointError, ConfigError) as error:
        raise ConfigError(str(error)) from error
    except TrainingError as error:
        raise RunError(str(error)) from error
    except Interrupted:
        raise Stopped(
            f"stopped by {signal.Signals(stop.received).name}; continue with the same command and "
            f"resume={folder}",
            stop.received,
        ) from None


def _execute(
    settings: RunSettings,
    folder: Path,
    started: float,
    started_at: datetime.datetime,
    stop: StopSignal,
    validation: list[Score] | None = None,
) -> tuple[Record, Path]:
    """``validation``: of the run that this is part of."""
    run = prepare(settings, folder, stop)
    run.logger.start(
        as_dict(settings),
        settings.name,
        folder,
        group=settings.logger.group,
        job_type=settings.mode,
        tags=(settings.task.name, model_name(settings), scale_name(settings)),
    )
    try:
        progress = Progress()
        if settings.model.hub is not None:
            run.console.print(f"evaluating {settings.model.name}, as it is")
        elif isinstance(run.task, OnlineTask):  # each network sees the tokens of one sequence
            progress.tokens = run.task.settings.length
        elif settings.mode == "eval":
            source = checkpoint.find_checkpoint(Path(settings.checkpoint))
            checkpoint.load_model(source, run.model)
            progress = Progress(**checkpoint.read_progress(source))
            run.console.print(f"evaluating {source}")
        else:
            progress = train(run)
        notes: list[str] = []
        if validation is None:
            validation = validate(run, notes)
        found, others = Scores(), []
        if settings.mode != "train":
            found = evaluate(run, notes)
            others = [_evaluation(run, name, validation) for name in settings.evaluations]
    except BaseException:
        run.logger.close(failed=True)
        raise
    record = record_of(run, found, notes, progress, started_at)
    record.validation = validation
    record.wall_seconds = round(time.perf_counter() - started, 2)
    path = folder / "record.json"
    write_record(record, path)  # the last thing: a run without it is not done
    record = read_record(path)  # as all that comes after sees it
    _show(run, record, path, others)
    return record, path


def _evaluation(run: Run, name: str, validation: list[Score]) -> Record:
    """Ask the model one of ``evaluations``: what ``mode=eval checkpoint=RUN task=NAME`` does, in a
    folder of the run's. One whose record is there, of a run that was stopped later, is left."""
    settings, folder = run.settings, run.folder / EVALUATIONS / name
    if (folder / RECORD_NAME).is_file():
        return read_record(folder / RECORD_NAME)
    started, started_at = time.perf_counter(), datetime.datetime.now(datetime.UTC)
    asked = replace(
        settings,
        mode="eval",
        checkpoint=settings.checkpoint if settings.mode == "eval" else str(run.folder),
        resume=True,  # the folder is this run's already
        validation_samples=0,
        task=settings.evaluations[name],
        evaluations={},
        name=f"{settings.name}-{name}",
        logger=replace(settings.logger, mode="disabled"),  # the run logs its scores
    )
    folder.mkdir(parents=True, exist_ok=True)
    return _execute(asked, folder, started, started_at, run.stop, validation)[0]


def _show(run: Run, record: Record, path: Path, others: list[Record]) -> None:
    """Plots, table and W&B, from a record that is already safe on disk; in W&B with the scores of
    the run's other evaluations."""
    plots = run.folder / "plots"
    drawn = []
    if run.settings.mode != "eval" and not isinstance(run.task, OnlineTask):
        drawn.append(plot_training(run.folder / "metrics.jsonl", plots / "training.png"))
    over_length = any(score.length_name != ZERO_SHOT for score in record.scores)
    plot = plot_accuracy([record], plots / "accuracy.png") if over_length else None
    if record.depths:
        drawn.append(plot_depths(record, plots / "depths.png"))
    if any(score.metric == POSITION_LOSS for score in record.scores):
        drawn.append(plot_position_loss([record], plots / "position_loss.png"))
    for table in rich_tables([record]):
        run.console.print(table)
    if plot:
        run.console.print(f"plot    {plot}")
    run.console.print(f"record  {path}")
    run.logger.finish(
        path,
        [vars(score) for each in (record, *others) for score in each.scores],
        [*drawn, plot] if plot else drawn,
        _facts(record),
    )


def _facts(record: Record) -> dict[str, float]:
    """What W&B shows in its table of runs beside the scores."""
    facts = {
        "parameters": record.parameters,
        "state_bytes": record.state_bytes,
        "train/tokens": record.train_tokens,
        "train/seconds": record.train_seconds,
        "wall_seconds": record.wall_seconds,
        "peak_memory_bytes": max(
            (score.peak_memory_bytes or 0 for score in record.scores), default=0
        ),
        "validation/score": validation_score(record),
    }
    return {name: value for name, value in facts.items() if value is not None}


# training ----------------------------------------------------------------------------------


def train(run: Run) -> Progress:
    """Train, resuming where the folder holds a checkpoint; returns the Progress."""
    settings = run.settings
    training = _with_epochs(settings.training, run.task)
    asked = validation_task(run) if training.validate_every else None
    trainer = Trainer(
        run.model,
        _batches(run.task),
        training,
        folder=run.folder,
        tokenizer=run.task.tokenizer,
        device=run.device,
        precision=run.precision,
        forward=torch.compile(run.model) if settings.hardware.compile else None,
        validate=partial(accuracy, replace(run, task=asked))
        if isinstance(asked, LabelledTask)
        else None,
        should_stop=run.stop,
    )
    if settings.resume is not False and (run.folder / "checkpoints" / "last.json").is_file():
        source = checkpoint.find_checkpoint(run.folder)
        trainer.resume(source)
        run.console.print(f"resuming at step {trainer.progress.step} from {source}")
    with progress_bars(run.console) as bars:
        task = bars.add_task(
            "training", total=training.tokens, completed=trainer.progress.tokens, note=""
        )

        def show(metrics: dict[str, float]) -> None:
            note = (
                f"loss {metrics['loss']:.3f}  answers {metrics['running_accuracy']:.0%}  "
                f"{metrics['length_tokens']} tokens, {metrics['noise_share']:.0%} noise  "
                f"{metrics['tokens_per_second']:,.0f} tokens/s"
            )
            bars.update(task, completed=metrics["tokens"], note=note)
            if metrics["step"] % 10 == 0:
                run.logger.log(metrics, int(metrics["step"]))
            if metrics["step"] % 100 == 0 and not run.console.is_terminal:
                run.console.print(f"step {metrics['step']}  {note}")

        trainer.on_step = show
        return trainer.run()


def _with_epochs(training: TrainingSettings, task: Task) -> TrainingSettings:
    """The budget in tokens where it is given in passes over the task's training set."""
    if training.epochs is None:
        return training
    if not hasattr(task, "epoch_tokens"):
        raise ConfigError(
            f"training.epochs={training.epochs} is for tasks with a fixed training set, which "
            f"task={task.settings.name} has not; set training.tokens"
        )
    return replace(training, tokens=round(training.epochs * task.epoch_tokens))


def _batches(task: Task):
    """The task's batches; what it cannot make is a mistake in the config."""

    def batch(length: int, noise: float, first: int, count: int):
        try:
            return task.batch(length, noise, first, count)
        except ValueError as error:
            raise ConfigError(str(error)) from error

    return batch
