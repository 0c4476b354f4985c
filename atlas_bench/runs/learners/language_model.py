"""The learner that most runs have: a language model, trained here or loaded from a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from atlas_bench.artifacts.checkpoint import (
    find_checkpoint,
    load_model,
    newest_undamaged,
    tokenizer_file,
)
from atlas_bench.artifacts.folder import RunFolder
from atlas_bench.config.errors import ConfigError
from atlas_bench.evaluation.evaluators import validation_task
from atlas_bench.evaluation.labelled import accuracy
from atlas_bench.evaluation.learner import Cost, Learner
from atlas_bench.evaluation.loading import Loaded, run_tokenizer
from atlas_bench.evaluation.memory_use import DoesNotFit, free_memory
from atlas_bench.evaluation.streaming import Generated, Prompt, generate
from atlas_bench.evaluation.token_predictions import predict
from atlas_bench.models.accounting import account, as_text, parameters_of, training_operations
from atlas_bench.models.build import build_model
from atlas_bench.models.language_model import count_parameters
from atlas_bench.models.mixer import unavailable_reason
from atlas_bench.runs.settings import RunSettings
from atlas_bench.tasks.stages import Stage
from atlas_bench.tasks.task import LABELLED, Batch, Task, TaskSettings, TokenPredictions
from atlas_bench.text.tokenizer import EMBEDDED, load_tokenizer
from atlas_bench.tracking import Tracker
from atlas_bench.training.callbacks import ProgressBar, TrackerLog
from atlas_bench.training.loop import Trainer
from atlas_bench.training.progress import Progress, progress_of
from atlas_bench.training.settings import TrainingSettings


class TrainedModel(Learner):
    """With ``checkpoint``, `prepare` loads its weights and tokenizer, and `train` does nothing."""

    def __init__(self, settings: RunSettings) -> None:
        self.settings = settings
        self.name, self.scale = settings.model.name, settings.scale.name
        self.source: Path | None = None  # the checkpoint that is evaluated
        self.resumed_from: Path | None = None  # the checkpoint that training continues from

    # before the run ----------------------------------------------------------------------------

    def describe(self) -> str:
        settings, (size, key) = self.settings, self._vocabulary
        costs = account(
            settings.model, settings.scale, vocab_size=size, readout=settings.task.readout
        )
        return (
            f"{as_text(f'{self.name} at {self.scale}', costs)}\n"
            f"  with a vocabulary of {size:,} tokens ({key})"
        )

    def cost(self) -> Cost:
        settings = self.settings
        training, model = settings.training, settings.model
        if training.epochs is not None:  # of the task's training set
            training = with_budget(training, settings.make_task())
        tokens = 0 if settings.mode == "eval" else training.tokens
        parameters = parameters_of(model, settings.scale, **self._sizes)
        reason = unavailable_reason(model, settings.hardware.device)
        if reason is not None:
            return Cost(tokens, parameters, missing=f"it {reason}")
        return Cost(tokens, parameters, training_operations(model, settings.scale, **self._sizes))

    @property
    def _sizes(self) -> dict[str, Any]:
        return {"vocab_size": self._vocabulary[0], "readout": self.settings.task.readout}

    @property
    def _vocabulary(self) -> tuple[int, str]:
        """Its size, as far as it is known before the task is made, and the key that says so."""
        task, text = self.settings.task, self.settings.text
        if type(task).vocabulary_size is not TaskSettings.vocabulary_size:
            return task.vocabulary_size(text), f"task={task.name}"
        if text.tokenizer != EMBEDDED:
            with suppress(ValueError):  # a dry run needs no tokenizer yet
                return load_tokenizer(text.tokenizer).vocab_size, f"text.tokenizer={text.tokenizer}"
        return text.vocab_size, "text.vocab_size"

    def prepare(self, folder: RunFolder, device: torch.device) -> Task:
        settings, tokenizer, self.device = self.settings, None, device
        if settings.checkpoint is not None:
            self.source = find_checkpoint(Path(settings.checkpoint))
            tokenizer = tokenizer_file(self.source)
        elif settings.resume is not False and folder.can_resume:
            self.resumed_from = newest_undamaged(folder.checkpoints)
            tokenizer = tokenizer_file(self.resumed_from)
        task = settings.make_task(tokenizer)
        self._refuse_what_cannot_fit(task.vocab_size, device)
        self.model = build_model(
            settings.model,
            settings.scale,
            vocab_size=task.vocab_size,
            seed=settings.seed,
            readout=settings.task.readout,
        )
        if self.source is not None:
            load_model(self.source, self.model)
        self.model.to(device).eval()
        self.parameters = count_parameters(self.model)
        self.precision = settings.hardware.precision_on(device.type)
        return task

    def _refuse_what_cannot_fit(self, vocab_size: int, device: torch.device) -> None:
        """Raise DoesNotFit for a model whose weights alone need more memory than is free."""
        settings = self.settings
        parameters = parameters_of(
            settings.model, settings.scale, vocab_size=vocab_size, readout=settings.task.readout
        )
        # In training also the gradient and two moments of AdamW; all of it is float32.
        needed = 4 * parameters * (1 if settings.mode == "eval" else 4)
        if needed > (free := free_memory(device)):
            raise DoesNotFit(
                f"scale.name={self.scale}: {self.name} has {parameters:,} parameters, which need "
                f"{needed:,} bytes, and {free:,} are free; use a smaller scale"
            )

    @property
    def module(self) -> nn.Module:
        return self.model

    def state_bytes(self, length: int) -> int:
        return self.model.state_bytes(1, length)

    # training ----------------------------------------------------------------------------------

    def train(
        self,
        task: Task,
        *,
        folder: RunFolder,
        console: Console,
        tracker: Tracker,
        should_stop: Callable[[], bool],
    ) -> Progress:
        settings = self.settings
        if self.source is not None:
            console.print(f"evaluating {self.source}")
            return progress_of(self.source)
        training = with_budget(settings.training, task)
        trainer = Trainer(
            self.model,
            _batches(task),
            training,
            folder=folder.path,
            tokenizer=task.tokenizer,
            device=self.device,
            precision=self.precision,
            forward=torch.compile(self.model) if settings.hardware.compile else None,
            validate=self._validation(task),
            callbacks=[ProgressBar(console), TrackerLog(tracker.log)],
            should_stop=should_stop,
        )
        if self.resumed_from is not None:
            trainer.resume(self.resumed_from)
            console.print(f"resuming at step {trainer.progress.step} from {self.resumed_from}")
        return trainer.run()

    def _validation(self, task: Task) -> Callable[[], float] | None:
        """The accuracy on validation examples; None without ``training.validate_every``."""
        if not self.settings.training.validate_every:
            return None
        other = validation_task(task, self.settings.validation_samples)
        if other is None or other.kind != LABELLED:
            return None
        return lambda: accuracy(self, other)

    # evaluation --------------------------------------------------------------------------------

    def generate(self, prompts: Iterable[Prompt], **options: Any) -> Generated:
        hardware = self.settings.hardware
        return generate(
            self.model,
            prompts,
            prefill_chunk=hardware.prefill_chunk,
            batch_tokens=hardware.batch_tokens,
            **options,
        )

    def predict(self, batch: Batch, *, first_example: int = 0) -> TokenPredictions:
        prefill_chunk = self.settings.hardware.prefill_chunk
        return predict(self.model, batch, prefill_chunk=prefill_chunk, first_example=first_example)

    def lm_eval_model(self, task: Task) -> Any:
        from atlas_bench.evaluation.lm_eval.model import AtlasBenchLM

        settings, hardware = self.settings, self.settings.hardware
        if self.source is not None:
            trained_with = run_tokenizer(self.source)
            if trained_with.fingerprint != task.tokenizer.fingerprint:
                raise ConfigError(
                    f"text.tokenizer={settings.text.tokenizer} is not what the checkpoint was "
                    f"trained with ({trained_with.name} of {trained_with.vocab_size} tokens)"
                )
        return AtlasBenchLM(
            Loaded(self.model, task.tokenizer),
            batch_tokens=hardware.batch_tokens,
            prefill_chunk=hardware.prefill_chunk,
            max_length=task.settings.max_length,
            device=self.device.type,
        )


def with_budget(training: TrainingSettings, task: Task) -> TrainingSettings:
    """The settings with the budget in tokens, also if they give it in epochs."""
    if training.epochs is None:
        return training
    if task.epoch_tokens is None:
        raise ConfigError(
            f"training.epochs={training.epochs} is for tasks with a fixed training set, but "
            f"task={task.settings.name} does not have one; set training.tokens"
        )
    return replace(training, tokens=round(training.epochs * task.epoch_tokens))


def _batches(task: Task) -> Callable[[Stage, int, int], Batch]:
    """The task's batches; a batch that it cannot make is a mistake in the config."""

    def batch(stage: Stage, first: int, count: int) -> Batch:
        try:
            return task.batch(stage, first, count)
        except ValueError as error:
            raise ConfigError(str(error)) from error

    return batch
