"""What happens around the steps of training: validation, metrics, progress, checkpoints.

A new one is a subclass of `Callback` that is passed to the `Trainer`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console
from torch import nn

from atlas_bench.artifacts.folder import RunFolder, append_lines, truncate_metrics
from atlas_bench.console import progress_bars
from atlas_bench.interrupts import Interrupted
from atlas_bench.training.progress import Progress
from atlas_bench.training.settings import TrainingSettings

Metrics = dict[str, float]
LOGGED_STEPS = 10  # the tracker gets every tenth step
PRINTED_STEPS = 100  # an output that is not a terminal gets a line every hundredth step


class Training(Protocol):
    """What callbacks may use of the trainer."""

    model: nn.Module
    settings: TrainingSettings
    progress: Progress
    folder: RunFolder

    @property
    def finished(self) -> bool:
        """Whether the budget is spent or training.stop_at is reached."""

    def save(self) -> None:
        """Write a checkpoint unless this step has one."""


class Callback:
    """Hooks of a training; each of them does nothing by default.

    The trainer calls its callbacks in order. `on_step` may add to the metrics that later callbacks
    see.
    """

    def on_start(self, training: Training) -> None:
        """Before the first step, or the first after a resume."""

    def on_step(self, training: Training, metrics: Metrics) -> None:
        """After a step, with its metrics."""

    def on_end(self, training: Training) -> None:
        """After the last step; not called if training fails or is interrupted."""

    def close(self) -> None:
        """Release what `on_start` opened; always called."""


@dataclass
class Validation(Callback):
    """Measures ``valid_accuracy`` every ``training.validate_every`` steps and after the last one.

    Training ends when it reaches ``training.stop_at``.
    """

    validate: Callable[[], float]

    def on_step(self, training: Training, metrics: Metrics) -> None:
        settings, progress = training.settings, training.progress
        if settings.validate_every is None:
            return
        if progress.step % settings.validate_every and not training.finished:
            return
        started = time.perf_counter()
        training.model.eval()
        accuracy = progress.valid_accuracy = metrics["valid_accuracy"] = self.validate()
        training.model.train()
        progress.ended = settings.stop_at is not None and accuracy >= settings.stop_at
        progress.seconds += time.perf_counter() - started


class MetricsFile(Callback):
    """Writes one line per step to metrics.jsonl, with the seconds of training so far."""

    def on_start(self, training: Training) -> None:
        # Later lines belong to steps that are taken again.
        truncate_metrics(training.folder.metrics, training.progress.step)

    def on_step(self, training: Training, metrics: Metrics) -> None:
        metrics["seconds"] = round(training.progress.seconds, 3)
        append_lines(training.folder.metrics, [metrics])


@dataclass
class Checkpoints(Callback):
    """Saves every ``training.checkpoint_every`` steps and ``training.checkpoint_minutes`` minutes,
    when asked to stop, and at the end."""

    should_stop: Callable[[], bool]

    def on_start(self, training: Training) -> None:
        self.saved_at = time.monotonic()

    def on_step(self, training: Training, metrics: Metrics) -> None:
        stop, minutes = self.should_stop(), training.settings.checkpoint_minutes
        late = minutes is not None and time.monotonic() - self.saved_at >= 60 * minutes
        if stop or late or training.progress.step % training.settings.checkpoint_every == 0:
            training.save()
            self.saved_at = time.monotonic()
        if stop and not training.finished:
            raise Interrupted

    def on_end(self, training: Training) -> None:
        training.save()


@dataclass
class TrackerLog(Callback):
    """Sends the metrics of every tenth step to an experiment tracker."""

    log: Callable[[Metrics, int], None]

    def on_step(self, training: Training, metrics: Metrics) -> None:
        if training.progress.step % LOGGED_STEPS == 0:
            self.log(metrics, training.progress.step)


class ProgressBar(Callback):
    """A bar of the budget on a terminal; on other outputs a line every hundredth step."""

    def __init__(self, console: Console) -> None:
        self.console, self.bars = console, progress_bars(console)

    def on_start(self, training: Training) -> None:
        self.bars.start()
        self.bar = self.bars.add_task(
            "training", total=training.settings.tokens, completed=training.progress.tokens, note=""
        )

    def on_step(self, training: Training, metrics: Metrics) -> None:
        noise = f", {metrics['noise_share']:.0%} noise" if "noise_share" in metrics else ""
        note = (
            f"loss {metrics['loss']:.3f}  answers {metrics['running_accuracy']:.0%}  "
            f"{metrics['length_tokens']} tokens{noise}  "
            f"{metrics['tokens_per_second']:,.0f} tokens/s"
        )
        self.bars.update(self.bar, completed=metrics["tokens"], note=note)
        if training.progress.step % PRINTED_STEPS == 0 and not self.console.is_terminal:
            self.console.print(f"step {training.progress.step}  {note}")

    def close(self) -> None:
        self.bars.stop()
