"""One run: task -> model -> train -> evaluate -> record."""

from __future__ import annotations

import datetime
import signal
import time
from dataclasses import replace
from pathlib import Path

from atlas_bench.artifacts import checkpoint
from atlas_bench.artifacts.folder import RunFolder
from atlas_bench.artifacts.records import read_record, write_record
from atlas_bench.artifacts.schema import Record, Score, Scores
from atlas_bench.config.errors import ConfigError
from atlas_bench.config.identity import as_dict
from atlas_bench.evaluation.context import Run
from atlas_bench.evaluation.evaluate import evaluate, validate
from atlas_bench.evaluation.streaming import DoesNotFit
from atlas_bench.interrupts import Interrupted, StopSignal
from atlas_bench.runs.checks import check_machine
from atlas_bench.runs.outcome import _show
from atlas_bench.runs.prepare import prepare
from atlas_bench.runs.record import record_of
from atlas_bench.runs.settings import RunSettings, model_name, scale_name
from atlas_bench.runs.train import train
from atlas_bench.tasks.task import ONLINE
from atlas_bench.training.errors import TrainingError
from atlas_bench.training.progress import Progress


class RunError(RuntimeError):
    """The run failed for a reason that is no bug; the message is one sentence."""


class Stopped(RuntimeError):
    """A signal stopped the run; everything up to here is saved."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal = signal_number


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
            return _execute(settings, RunFolder(folder), started, started_at, stop)[1]
    except (DoesNotFit, ConfigError) as error:
        RunFolder(folder).discard()
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
    folder: RunFolder,
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
        folder.path,
        group=settings.logger.group,
        job_type=settings.mode,
        tags=(settings.task.name, model_name(settings), scale_name(settings)),
    )
    try:
        progress = Progress()
        if settings.model.hub is not None:
            run.console.print(f"evaluating {settings.model.name}, as it is")
        elif run.task.kind == ONLINE:  # each network sees the tokens of one sequence
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
    write_record(record, folder.record)  # written last: a run without it is not finished
    record = read_record(folder.record)  # as every reader sees it
    _show(run, record, folder.record, others)
    return record, folder.record


def _evaluation(run: Run, name: str, validation: list[Score]) -> Record:
    """Ask the model one of ``evaluations``: what ``mode=eval checkpoint=RUN task=NAME`` does, in a
    folder of the run's. One whose record is there, of a run that was stopped later, is left."""
    settings, folder = run.settings, run.folder.evaluation(name)
    if folder.record.is_file():
        return read_record(folder.record)
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
    folder.path.mkdir(parents=True, exist_ok=True)
    return _execute(asked, folder, started, started_at, run.stop, validation)[0]


# training ----------------------------------------------------------------------------------
