"""One run: task -> model -> train -> evaluate -> record."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import signal
import subprocess
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.console import Console

from atlas_bench import __version__
from atlas_bench.config import ConfigError, RunSettings, as_dict, check_machine
from atlas_bench.console import progress_bars
from atlas_bench.evaluation.labelled import accuracy
from atlas_bench.evaluation.scoring import Scores, evaluate, validate
from atlas_bench.evaluation.streaming import DoesNotFit
from atlas_bench.interrupts import Interrupted, StopSignal
from atlas_bench.models.accounting import account, as_text
from atlas_bench.models.language_model import LanguageModel, build_model, count_parameters
from atlas_bench.report.plots import (
    POSITION_LOSS,
    plot_accuracy,
    plot_depths,
    plot_position_loss,
    plot_training,
)
from atlas_bench.report.records import Record, Score, write_record
from atlas_bench.report.selection import validation_score
from atlas_bench.report.tables import rich_tables
from atlas_bench.tasks.babilong_task import BabilongTask
from atlas_bench.tasks.registry import make_task
from atlas_bench.tasks.settings import TextSettings
from atlas_bench.tasks.suites import ZERO_SHOT
from atlas_bench.tasks.task import Task
from atlas_bench.training import checkpoint
from atlas_bench.training.loop import Progress, Trainer, TrainingError
from atlas_bench.training.settings import TrainingSettings
from atlas_bench.wandb_logger import RunLogger

if TYPE_CHECKING:
    from atlas_bench.evaluation.hub_models import HubModel

PACKAGES = (
    "torch", "numpy", "tokenizers", "hydra-core", "wandb", "datasets", "safetensors",
    "triton", "fla-core", "lm-eval", "transformers",
)  # fmt: skip


class RunError(RuntimeError):
    """The run failed for a reason that is no bug; the message is one sentence."""


class Stopped(RuntimeError):
    """A signal stopped the run; everything up to here is saved."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal = signal_number


@dataclass
class Run:
    """What all parts of one run share."""

    settings: RunSettings
    folder: Path
    device: torch.device
    precision: str
    task: Task
    model: LanguageModel | HubModel
    console: Console
    logger: RunLogger
    stop: StopSignal
    commit: str | None  # of the code that runs, read before anything can change it


def describe(settings: RunSettings) -> str:
    """Parameters, state and operations of the model, by models/accounting.py; runs nothing.

    Raises ConfigError for a model that cannot be built.
    """
    check_machine(settings)
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
            return _execute(settings, folder, started, started_at, stop)
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
) -> Path:
    run = _prepare(settings, folder, stop)
    run.logger.start(
        as_dict(settings),
        settings.name,
        folder,
        group=settings.logger.group,
        job_type=settings.mode,
        tags=(settings.task.name, settings.model.name, settings.scale.name),
    )
    try:
        progress = Progress()
        if settings.model.hub is not None:
            run.console.print(f"evaluating {settings.model.name}, as it is")
        elif settings.mode == "eval":
            source = checkpoint.find_checkpoint(Path(settings.checkpoint))
            checkpoint.load_model(source, run.model)
            run.console.print(f"evaluating {source}")
        else:
            progress = train(run)
        notes: list[str] = []
        validation = validate(run, notes) if settings.validation_samples else []
        found = Scores()
        if settings.mode != "train":
            found = evaluate(run, notes)
    except BaseException:
        run.logger.close(failed=True)
        raise
    record = _record(run, found, notes, progress, started_at)
    record.validation = validation
    record.wall_seconds = round(time.perf_counter() - started, 2)
    path = folder / "record.json"
    write_record(record, path)
    _show(run, record, path)
    return path


def _show(run: Run, record: Record, path: Path) -> None:
    """Plots, table and W&B, from a record that is already safe on disk."""
    plots = run.folder / "plots"
    drawn = []
    if run.settings.mode != "eval":
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
        [vars(score) for score in record.scores],
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


def _prepare(settings: RunSettings, folder: Path, stop: StopSignal) -> Run:
    hardware = settings.hardware
    has_gpu = torch.cuda.is_available()
    if hardware.device == "cuda" and not has_gpu:
        raise ConfigError("hardware.device=cuda, but torch sees no GPU; use auto or cpu")
    device = torch.device("cuda" if has_gpu and hardware.device != "cpu" else "cpu")
    precision = hardware.precision
    if precision == "auto":
        precision = "bfloat16" if device.type == "cuda" else "float32"
    if hardware.threads:
        torch.set_num_threads(hardware.threads)
    try:
        task, model = _task_and_model(settings, folder, device)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    _claim(settings, folder)
    console = Console()
    console.print(
        f"{settings.model.name} at {_scale(settings)}: {count_parameters(model):,} parameters, "
        f"{device.type} {precision}, seed {settings.seed}, run {folder}"
    )
    logger = RunLogger(settings.logger.mode, project=settings.logger.project)
    return Run(
        settings,
        folder,
        device,
        precision,
        task,
        model,
        console,
        logger,
        stop,
        _git_commit(),
    )


def _claim(settings: RunSettings, folder: Path) -> None:
    """Make ``folder`` this run's own: two sweeps of the same second would share their jobs'."""
    path = folder / "config.json"
    if settings.resume is False:
        try:
            path.touch(exist_ok=False)
        except FileExistsError:
            raise ConfigError(
                f"{folder} holds another run; go on with that by resume={folder}, or choose a "
                f"folder with hydra.run.dir=PATH (a sweep: hydra.sweep.dir=PATH)"
            ) from None
    checkpoint.write_json(path, as_dict(settings))


def _task_and_model(
    settings: RunSettings, folder: Path, device: torch.device
) -> tuple[Task, LanguageModel | HubModel]:
    """The task, and a model for its vocabulary; a pretrained one brings the vocabulary instead."""
    text, hub = _text(settings), settings.model.hub
    if hub is not None:
        from atlas_bench.evaluation.hub_models import HubModel

        pretrained = HubModel(settings.model, device)
        text = replace(text, tokenizer=str(pretrained.save_tokenizer(folder / "tokenizer")))
    task = make_task(
        settings.task, text, seed=settings.seed, question_every=settings.training.question_every
    )
    if hub is None:
        model = build_model(
            settings.model,
            settings.scale,
            vocab_size=task.vocab_size,
            seed=settings.seed,
            readout=getattr(settings.task, "readout", "next"),
        )
        return task, model.to(device)
    if isinstance(task, BabilongTask):
        from atlas_bench.tasks.prompted import PromptedBabilong

        parts = ("instruction", "examples", "post_prompt")
        task = PromptedBabilong(task, {part: getattr(hub, part) for part in parts})
    return task, pretrained


def _scale(settings: RunSettings) -> str:
    """The scale's name; a pretrained model has the size that it has."""
    return settings.scale.name if settings.model.hub is None else "pretrained"


def _text(settings: RunSettings) -> TextSettings:
    """The configured text, but with the tokenizer of the checkpoint that is evaluated."""
    saved = None
    if settings.checkpoint is not None:
        saved = checkpoint.tokenizer_file(checkpoint.find_checkpoint(Path(settings.checkpoint)))
    return settings.text if saved is None else replace(settings.text, tokenizer=str(saved))


# training ----------------------------------------------------------------------------------


def train(run: Run) -> Progress:
    """Train, resuming where the folder holds a checkpoint; returns the Progress."""
    settings = run.settings
    training = _with_epochs(settings.training, run.task)
    trainer = Trainer(
        run.model,
        _batches(run.task),
        training,
        folder=run.folder,
        tokenizer=run.task.tokenizer,
        device=run.device,
        precision=run.precision,
        forward=torch.compile(run.model) if settings.hardware.compile else None,
        validate=partial(accuracy, run) if hasattr(run.task, "validation_batches") else None,
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


# record ------------------------------------------------------------------------------------


def _record(
    run: Run,
    found: Scores,
    notes: list[str],
    progress: Progress,
    started_at: datetime.datetime,
) -> Record:
    settings, task = run.settings, run.task
    tokenizer = task.tokenizer
    return Record(
        name=settings.name,
        model=settings.model.name,
        scale=_scale(settings),
        task=task.settings.name,
        parameters=count_parameters(run.model),
        seed=settings.seed,
        scores=found.scores,
        depths=found.depths,
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
        config=as_dict(settings),
        started_at=started_at.isoformat(timespec="seconds"),
        notes=notes,
        state_bytes=_state_bytes(run, found.scores),
        valid_accuracy=progress.valid_accuracy,
    )


def _state_bytes(run: Run, scores: list[Score]) -> int | None:
    """Of one sequence at the longest length that was scored: a recurrent model's at any length."""
    return run.model.state_bytes(1, max((score.length_tokens for score in scores), default=0))


def versions() -> dict[str, str]:
    """Versions of everything that can change a number."""
    found = {"python": platform.python_version(), "atlas-bench": __version__}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _git_commit() -> str | None:
    """The commit of the source tree, with ``-dirty`` where it was changed; None outside git."""
    here = Path(__file__).resolve().parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({platform.machine()}, {torch.get_num_threads()} threads)"
