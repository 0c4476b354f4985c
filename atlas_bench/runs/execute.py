"""One run: prepare -> train -> evaluate -> record -> show."""

from __future__ import annotations

import datetime
import signal
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from atlas_bench.artifacts.folder import RunFolder, append_lines
from atlas_bench.artifacts.metrics import Metric
from atlas_bench.artifacts.records import read_record, try_record, write_record
from atlas_bench.artifacts.schema import Record, Score, Scores
from atlas_bench.evaluation.evaluators import evaluate, validate
from atlas_bench.interrupts import Interrupted, StopSignal
from atlas_bench.runs.checks import check_machine
from atlas_bench.runs.prepare import prepare
from atlas_bench.runs.provenance import git_commit, not_as_trained, session
from atlas_bench.runs.record import make_record
from atlas_bench.runs.settings import RunSettings
from atlas_bench.runs.show import show


class Stopped(RuntimeError):
    """A signal stopped the run; everything so far is saved."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal = signal_number


def execute(settings: RunSettings, folder: Path, command: Sequence[str] = ()) -> Path:
    """Run what the config says in ``folder`` and return the path of the record.

    The record names the ``command``.

    Raises ConfigError for input that shows its fault only now (a checkpoint, a text folder, a
    length), TrainingError if training cannot continue, Stopped after a signal.
    """
    check_machine(settings)
    run = RunFolder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with StopSignal() as stop:
            _run(settings, run, stop, command)
    except Interrupted:
        raise Stopped(
            f"stopped by {signal.Signals(stop.received).name}; continue with the same command and "
            f"resume={folder}",
            stop.received,
        ) from None
    return run.record


def _run(
    settings: RunSettings,
    folder: RunFolder,
    stop: StopSignal,
    command: Sequence[str],
    validation: list[Score] | None = None,
    metrics: Sequence[Metric] = (),
) -> Record:
    """``validation`` and ``metrics`` are those of the run that this evaluation belongs to."""
    started, started_at = time.perf_counter(), datetime.datetime.now(datetime.UTC)
    commit = git_commit()  # before anything can change the code
    context, task = prepare(settings, folder, stop, commit)
    learner = context.learner
    append_lines(folder.sessions, [session(command, context.device, learner.precision, commit)])
    if validation is None:  # a run's other evaluations have another task by definition
        context.notes += not_as_trained(settings, folder)
    for note in context.notes:
        context.console.print(f"note    {note}")
    context.tracker.start(
        asdict(settings),
        settings.name,
        folder.path,
        group=settings.logger.group,
        job_type=settings.mode,
        tags=(settings.task.name, learner.name, learner.scale),
    )
    try:
        progress = learner.train(
            task,
            folder=folder,
            console=context.console,
            tracker=context.tracker,
            should_stop=stop,
        )
        if validation is None:
            validation = validate(context, task, settings.validation_samples)
        scores, others = Scores(), []
        if settings.mode != "train":
            scores = evaluate(context, task)
            for name in settings.evaluations:
                of_the_run = (command, validation, task.metrics)
                others.append(_evaluation(settings, folder, stop, name, *of_the_run))
        record = make_record(
            settings,
            context,
            task,
            scores,
            validation,
            progress,
            metrics=metrics,
            git_commit=commit,
            started_at=started_at.isoformat(timespec="seconds"),
            wall_seconds=round(time.perf_counter() - started, 2),
        )
        write_record(record, folder.record)  # written last: a run without it is not finished
        for each in (folder, folder.validation):
            each.evaluated.unlink(missing_ok=True)
    except BaseException:
        context.tracker.close(failed=True)
        raise
    record = read_record(folder.record)  # as every reader sees it
    show(context, record, others, trained=settings.mode != "eval" and progress.step > 0)
    return record


def _evaluation(
    settings: RunSettings, folder: RunFolder, stop: StopSignal, name: str, *of_the_run: Any
) -> Record:
    """One of ``evaluations``: what ``mode=eval checkpoint=RUN task=NAME`` does, in a folder inside
    the run's. A record that an earlier, stopped try left there is kept."""
    own = folder.evaluation(name)
    if record := try_record(own)[0]:
        return record
    own.path.mkdir(parents=True, exist_ok=True)
    evaluation = replace(
        settings,
        mode="eval",
        checkpoint=settings.checkpoint if settings.mode == "eval" else str(folder),
        resume=True,  # the folder is this run's already
        validation_samples=0,
        task=settings.evaluations[name],
        evaluations={},
        name=f"{settings.name}-{name}",
        logger=replace(settings.logger, mode="disabled"),  # the run logs its scores
    )
    return _run(evaluation, own, stop, *of_the_run)
