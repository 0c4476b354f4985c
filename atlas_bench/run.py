"""One run: task -> model -> train -> evaluate -> record."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import signal
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console

from atlas_bench import __version__
from atlas_bench.config import ConfigError, RunSettings, as_dict, check_machine
from atlas_bench.console import progress_bars
from atlas_bench.evaluation.scoring import Scores, evaluate
from atlas_bench.evaluation.streaming import DoesNotFit
from atlas_bench.interrupts import Interrupted, StopSignal
from atlas_bench.models.accounting import account, as_text
from atlas_bench.models.language_model import LanguageModel, build_model, count_parameters
from atlas_bench.report.plots import plot_accuracy, plot_training
from atlas_bench.report.position_loss import METRIC as POSITION_LOSS
from atlas_bench.report.position_loss import plot_position_loss
from atlas_bench.report.records import Record, Score, write_record
from atlas_bench.report.tables import rich_tables
from atlas_bench.tasks.registry import make_task
from atlas_bench.tasks.settings import TextSettings
from atlas_bench.tasks.task import Task
from atlas_bench.training import checkpoint
from atlas_bench.training.loop import Trainer, TrainingError
from atlas_bench.wandb_logger import RunLogger

PACKAGES = (
    "torch", "numpy", "tokenizers", "hydra-core", "wandb", "datasets", "safetensors",
    "triton", "fla-core",
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
    model: LanguageModel
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
    try:
        found = account(settings.model, settings.scale, vocab_size=vocab_size)
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
    run.logger.start(as_dict(settings), settings.name, folder, group=settings.logger.group)
    try:
        trained = {"seconds": 0.0, "tokens": 0}
        if settings.mode == "eval":
            source = checkpoint.find_checkpoint(Path(settings.checkpoint))
            checkpoint.load_model(source, run.model)
            run.console.print(f"evaluating {source}")
        else:
            progress = train(run)
            trained = {"seconds": progress.seconds, "tokens": progress.tokens}
        notes: list[str] = []
        found = Scores()
        if settings.mode != "train":
            found = evaluate(run, notes)
    except BaseException:
        run.logger.close(failed=True)
        raise
    record = _record(run, found, notes, trained, started_at)
    record.wall_seconds = round(time.perf_counter() - started, 2)
    path = folder / "record.json"
    write_record(record, path)
    _show(run, record, path)
    return path


def _show(run: Run, record: Record, path: Path) -> None:
    """Plots, table and W&B, from a record that is already safe on disk."""
    plots = run.folder / "plots"
    if run.settings.mode != "eval":
        plot_training(run.folder / "metrics.jsonl", plots / "training.png")
    plot = plot_accuracy([record], plots / "accuracy.png") if record.scores else None
    if any(score.metric == POSITION_LOSS for score in record.scores):
        plot_position_loss([record], plots / "position_loss.png")
    for table in rich_tables([record]):
        run.console.print(table)
    if plot:
        run.console.print(f"plot    {plot}")
    run.console.print(f"record  {path}")
    run.logger.finish(path, [vars(score) for score in record.scores], plot)


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
        task = make_task(
            settings.task,
            _text(settings),
            seed=settings.seed,
            question_every=settings.training.question_every,
        )
        model = build_model(
            settings.model, settings.scale, vocab_size=task.vocab_size, seed=settings.seed
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    _claim(settings, folder)
    console = Console()
    console.print(
        f"{settings.model.name} at {settings.scale.name}: {count_parameters(model):,} parameters, "
        f"{device.type} {precision}, seed {settings.seed}, run {folder}"
    )
    logger = RunLogger(settings.logger.mode, project=settings.logger.project)
    return Run(
        settings,
        folder,
        device,
        precision,
        task,
        model.to(device),
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


def _text(settings: RunSettings) -> TextSettings:
    """The configured text, but with the tokenizer of the checkpoint that is evaluated."""
    saved = None
    if settings.checkpoint is not None:
        saved = checkpoint.tokenizer_file(checkpoint.find_checkpoint(Path(settings.checkpoint)))
    return settings.text if saved is None else replace(settings.text, tokenizer=str(saved))


# training ----------------------------------------------------------------------------------


def train(run: Run):
    """Train, resuming where the folder holds a checkpoint; returns the Progress."""
    settings = run.settings
    trainer = Trainer(
        run.model,
        _batches(run.task),
        settings.training,
        folder=run.folder,
        tokenizer=run.task.tokenizer,
        device=run.device,
        precision=run.precision,
        forward=torch.compile(run.model) if settings.hardware.compile else None,
        should_stop=run.stop,
    )
    if settings.resume is not False and (run.folder / "checkpoints" / "last.json").is_file():
        source = checkpoint.find_checkpoint(run.folder)
        trainer.resume(source)
        run.console.print(f"resuming at step {trainer.progress.step} from {source}")
    with progress_bars(run.console) as bars:
        task = bars.add_task(
            "training", total=settings.training.tokens, completed=trainer.progress.tokens, note=""
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
    trained: dict[str, float],
    started_at: datetime.datetime,
) -> Record:
    settings, task = run.settings, run.task
    tokenizer = task.tokenizer
    return Record(
        name=settings.name,
        model=settings.model.name,
        scale=settings.scale.name,
        task=task.settings.name,
        parameters=count_parameters(run.model),
        seed=settings.seed,
        scores=found.scores,
        depths=found.depths,
        wall_seconds=0.0,
        train_seconds=round(trained["seconds"], 2),
        train_tokens=int(trained["tokens"]),
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
            "train_tokens": int(trained["tokens"]),
        },
        config=as_dict(settings),
        started_at=started_at.isoformat(timespec="seconds"),
        notes=notes,
        state_bytes=_state_bytes(run, found.scores),
    )


def _state_bytes(run: Run, scores: list[Score]) -> int:
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
