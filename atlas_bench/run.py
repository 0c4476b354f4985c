"""One run: task -> model -> train -> evaluate -> record."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import logging
import platform
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from atlas_bench import __version__
from atlas_bench.config import NOT_IDENTITY, ConfigError, RunSettings, as_dict, identity
from atlas_bench.evaluation.streaming import DoesNotFit, Prompt, generate
from atlas_bench.interrupts import Interrupted, StopSignal
from atlas_bench.models.language_model import LanguageModel, build_model, count_parameters
from atlas_bench.report.plots import plot_accuracy, plot_training
from atlas_bench.report.records import Record, Score, wilson_interval, write_record
from atlas_bench.report.tables import rich_tables
from atlas_bench.tasks.babi import LABELS
from atlas_bench.tasks.babilong import (
    NoisePool,
    Sample,
    StreamGenerator,
    babilong_tokenizer,
    evaluation_samples,
    exact_match,
    load_noise,
    parse_length,
    published_metric,
)
from atlas_bench.text.tokenizer import Tokenizer
from atlas_bench.training import checkpoint
from atlas_bench.training.loop import Trainer, TrainingError
from atlas_bench.wandb_logger import RunLogger

log = logging.getLogger(__name__)
PACKAGES = ("torch", "numpy", "tokenizers", "hydra-core", "wandb", "datasets", "safetensors")


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
    tokenizer: Tokenizer
    model: LanguageModel
    console: Console
    logger: RunLogger
    stop: StopSignal


def execute(settings: RunSettings, folder: Path) -> Path:
    """Do what the config says in ``folder`` and return the path of the record.

    Raises ConfigError for input that only shows now (a checkpoint, a text folder, a length),
    RunError when training cannot go on, Stopped after a signal.
    """
    started, started_at = time.perf_counter(), datetime.datetime.now(datetime.UTC)
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
        scores = [] if settings.mode == "train" else evaluate(run, notes)
    except BaseException:
        run.logger.close(failed=True)
        raise
    record = _record(run, scores, notes, trained, started_at)
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
        tokenizer = babilong_tokenizer(settings.text.tokenizer, settings.text.vocab_size)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    try:
        model = build_model(
            settings.model, settings.scale, vocab_size=tokenizer.vocab_size, seed=settings.seed
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    config = as_dict(settings)
    checkpoint.write_json(folder / "config.json", config)
    console = Console()
    console.print(
        f"{settings.model.name} at {settings.scale.name}: {count_parameters(model):,} parameters, "
        f"{device.type} {precision}, seed {settings.seed}, run {folder}"
    )
    logger = RunLogger(settings.logger.mode, project=settings.logger.project)
    return Run(
        settings, folder, device, precision, tokenizer, model.to(device), console, logger, stop
    )


# training ----------------------------------------------------------------------------------


def train(run: Run):
    """Train, resuming where the folder holds a checkpoint; returns the Progress."""
    settings = run.settings
    trainer = Trainer(
        run.model,
        _streams(settings, run.tokenizer),
        settings.training,
        folder=run.folder,
        end_id=run.tokenizer.end_id,
        device=run.device,
        precision=run.precision,
        forward=torch.compile(run.model) if settings.hardware.compile else None,
        should_stop=run.stop,
    )
    if settings.resume is not False and (run.folder / "checkpoints" / "last.json").is_file():
        source = checkpoint.find_checkpoint(run.folder)
        trainer.resume(source)
        run.console.print(f"resuming at step {trainer.progress.step} from {source}")
    with _progress(run.console) as bars:
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


def _streams(settings: RunSettings, tokenizer: Tokenizer):
    noise = _noise(settings, tokenizer, "train")
    generators: dict[tuple[int, float], StreamGenerator] = {}

    def streams(length: int, share: float, first: int, count: int):
        if (length, share) not in generators:
            generators[length, share] = StreamGenerator(
                settings.task.subtasks,
                noise,
                tokenizer,
                length_tokens=length,
                noise_share=share,
                question_every=settings.training.question_every,
                seed=settings.seed,
            )
        try:
            return generators[length, share].batch(first, count)
        except ValueError as error:
            raise ConfigError(f"training.curriculum.stages: {error}") from error

    return streams


def _noise(settings: RunSettings, tokenizer: Tokenizer, split: str) -> NoisePool:
    text = settings.text
    try:
        return load_noise(tokenizer, split=split, source=text.source, folder=text.folder)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        disable=not console.is_terminal,
    )


# evaluation --------------------------------------------------------------------------------


def evaluate(run: Run, notes: list[str]) -> list[Score]:
    """Scores of every subtask and length; a length that does not fit is skipped with a note."""
    task = run.settings.task
    run.model.eval()
    noise = _noise(run.settings, run.tokenizer, "test") if task.source == "generated" else None
    scores: list[Score] = []
    # Draw one sample of everything first: a length that no story fits must not cost an evaluation.
    for subtask in task.subtasks:
        for length in task.lengths:
            next(_samples(run, noise, subtask, length, 1))
    with _progress(run.console) as bars:
        for subtask in task.subtasks:
            for length in task.lengths:
                bar = bars.add_task(f"{subtask} {length}", total=task.samples, note="")
                try:
                    found = _evaluate_length(
                        run, noise, subtask, length, partial(bars.advance, bar)
                    )
                except DoesNotFit as error:
                    notes.append(f"{subtask} {length}: {error}")
                    run.console.print(f"[yellow]{subtask} {length}: {error}[/yellow]")
                    continue
                scores += found
                if run.stop():
                    raise Interrupted
    return scores


def _samples(
    run: Run, noise: NoisePool | None, subtask: str, length: str, count: int
) -> Iterator[Sample]:
    task = run.settings.task
    try:
        yield from evaluation_samples(
            subtask,
            length,
            count,
            task.seed,
            noise=noise,
            tokenizer=run.tokenizer,
            convention=task.length_convention,
            source=task.source,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _evaluate_length(
    run: Run,
    noise: NoisePool | None,
    subtask: str,
    length: str,
    on_prompt: Callable[[], None],
) -> list[Score]:
    """Both metrics on the same answers, with what reading the contexts cost."""
    task, hardware, tokenizer = run.settings.task, run.settings.hardware, run.tokenizer
    asked: list[tuple[str, str, int]] = []  # question, answer, context tokens; never the context

    def prompts() -> Iterator[Prompt]:
        for index, sample in enumerate(_samples(run, noise, subtask, length, task.samples)):
            asked.append((sample.question, sample.answer, sample.length_tokens))
            question = np.append(sample.question_ids, tokenizer.answer_id)
            yield Prompt(sample.context_ids, question, index)

    found = generate(
        run.model,
        prompts(),
        max_new=task.max_new_tokens,
        end_id=tokenizer.end_id,
        piece=hardware.piece_tokens,
        batch_tokens=hardware.batch_tokens,
        on_prompt=on_prompt,
        should_stop=run.stop,
    )
    outputs = [tokenizer.decode(tokens).strip() for tokens in found.tokens]
    _append_predictions(run.folder, subtask, length, asked, outputs)
    pairs = list(zip(asked, outputs, strict=True))
    correct = {
        "exact_match": sum(exact_match(answer, output) for (_, answer, _), output in pairs),
        "published_metric": sum(
            published_metric(subtask, target=answer, output=output, question=question)
            for (question, answer, _), output in pairs
        ),
    }
    nominal = parse_length(length, task.length_convention)
    scores = []
    for metric, count in correct.items():
        low, high = wilson_interval(count, len(pairs))
        scores.append(
            Score(
                subtask=subtask,
                length_tokens=nominal,
                length_name=length,
                metric=metric,
                value=count / len(pairs),
                samples=len(pairs),
                ci_low=low,
                ci_high=high,
                tokens_per_second=round(found.tokens_per_second, 1),
                peak_memory_bytes=found.peak_memory_bytes,
                measured_tokens_mean=round(sum(tokens for *_, tokens in asked) / len(asked), 1),
            )
        )
    return scores


def _append_predictions(
    folder: Path,
    subtask: str,
    length: str,
    asked: list[tuple[str, str, int]],
    outputs: list[str],
) -> None:
    """Every answer as given, so that any metric can be computed again from the run's folder."""
    with (folder / "predictions.jsonl").open("a", encoding="utf-8") as file:
        for (question, target, tokens), output in zip(asked, outputs, strict=True):
            row = {
                "subtask": subtask,
                "length": length,
                "context_tokens": tokens,
                "question": question,
                "target": target,
                "output": output,
            }
            file.write(json.dumps(row) + "\n")


# record ------------------------------------------------------------------------------------


def _record(
    run: Run,
    scores: list[Score],
    notes: list[str],
    trained: dict[str, float],
    started_at: datetime.datetime,
) -> Record:
    settings, task = run.settings, run.settings.task
    labels = LABELS[task.subtasks[0]]
    return Record(
        name=settings.name,
        model=settings.model.name,
        scale=settings.scale.name,
        task=task.name,
        parameters=count_parameters(run.model),
        seed=settings.seed,
        scores=scores,
        wall_seconds=0.0,
        train_seconds=round(trained["seconds"], 2),
        train_tokens=int(trained["tokens"]),
        versions=versions(),
        git_commit=_git_commit(),
        device=_device_name(run.device),
        tokenizer={
            "name": run.tokenizer.name,
            "fingerprint": run.tokenizer.fingerprint,
            "vocab_size": run.tokenizer.vocab_size,
        },
        protocol={
            "length_convention": task.length_convention,
            "source": task.source,
            "noise": settings.text.source,
            "samples": task.samples,
            "evaluation_seed": task.seed,
            "training": "generated streams" if settings.mode != "eval" else "none in this run",
            "train_tokens": int(trained["tokens"]),
            "chance": 1 / len(labels) if len(task.subtasks) == 1 else None,
        },
        config=as_dict(settings),
        started_at=started_at.isoformat(timespec="seconds"),
        notes=notes,
    )


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


# resuming ----------------------------------------------------------------------------------


def folder_to_resume(settings: RunSettings) -> Path | None:
    """The run folder that ``resume`` means; None where ``resume=true`` finds no unfinished run.

    Raises ConfigError where a given folder cannot be gone on with.
    """
    mine = identity(as_dict(settings))
    if isinstance(settings.resume, str):
        folder = Path(settings.resume)
        if not (folder / "config.json").is_file():
            raise ConfigError(f"resume={folder} is no run's folder: it has no config.json")
        theirs = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if identity(theirs) != mine:
            raise ConfigError(
                f"resume={folder} was started with another config: "
                f"{_first_difference(theirs, as_dict(settings))}"
            )
        return folder
    unfinished = []
    for path in Path(settings.output_dir).rglob("config.json"):
        folder = path.parent
        if (folder / "record.json").exists() or not (folder / "checkpoints/last.json").exists():
            continue
        try:
            theirs = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):
            continue
        if identity(theirs) == mine:
            unfinished.append((path.stat().st_mtime, folder))
    return max(unfinished)[1] if unfinished else None


def _first_difference(theirs: dict, ours: dict, prefix: str = "") -> str:
    for key, value in ours.items():
        if not prefix and key in NOT_IDENTITY:
            continue
        other = theirs.get(key)
        if isinstance(value, dict) and isinstance(other, dict):
            if found := _first_difference(other, value, f"{prefix}{key}."):
                return found
        elif json.dumps(value, default=str) != json.dumps(other, default=str):
            return f"{prefix}{key} was {other} there and is {value} here"
    return ""
