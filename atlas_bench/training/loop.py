"""The training loop: streams with dense supervision, a curriculum, checkpoints, exact resume.

Everything random is a function of (seed, step), so a resumed run repeats an uninterrupted one bit
for bit on the same machine and thread count.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from atlas_bench.artifacts import checkpoint
from atlas_bench.artifacts.folder import RunFolder, truncate_metrics
from atlas_bench.interrupts import Interrupted
from atlas_bench.models.language_model import LanguageModel
from atlas_bench.models.packing import packed_forward
from atlas_bench.models.state import ModelState
from atlas_bench.tasks.stages import Stage
from atlas_bench.text.tokenizer import Tokenizer
from atlas_bench.training.errors import TrainingError
from atlas_bench.training.settings import TrainingSettings

LM_STRIDE = 8  # the language-modelling term looks at every eighth token: cheaper, same direction
SMOOTHING = 0.9  # of the running accuracy that the curriculum looks at


class Batch(Protocol):
    """``inputs`` and ``targets`` int32 (B, length), ``answer_mask`` bool (B, length) over them;
    ``starts`` bool (B, length), or None, where a new document begins."""

    inputs: np.ndarray
    targets: np.ndarray
    answer_mask: np.ndarray
    starts: np.ndarray | None


# (stage, first sequence, number of sequences) -> Batch
Streams = Callable[[Stage, int, int], Batch]


@dataclass
class Progress:
    """Where training stands; saved with every checkpoint."""

    step: int = 0
    tokens: int = 0
    streams: int = 0
    stage: int = 0
    stage_steps: int = 0
    stage_tokens: int = 0
    passed: bool = True  # whether the stage before was ended by accuracy
    accuracy: float = 0.0
    best_stage: int = -1
    best_accuracy: float = 0.0
    seconds: float = 0.0
    last_loss: float = math.nan
    valid_accuracy: float | None = None
    ended: bool = False  # by training.stop_at, before the budget was spent


class Trainer:
    """Trains ``model`` on ``streams``; everything it writes goes under ``folder``."""

    def __init__(
        self,
        model: LanguageModel,
        streams: Streams,
        settings: TrainingSettings,
        *,
        folder: Path,
        tokenizer: Tokenizer | None,
        device: torch.device,
        precision: str = "float32",
        forward: Callable | None = None,
        validate: Callable[[], float] | None = None,
        on_step: Callable[[dict[str, float]], None] = lambda metrics: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.model, self.streams, self.settings = model, streams, settings
        self.folder, self.tokenizer = RunFolder(folder), tokenizer
        self.device, self.precision = device, precision
        self.forward = forward or model  # a compiled model shares its parameters with `model`
        self.validate, self.on_step, self.should_stop = validate, on_step, should_stop
        self.optimizer = build_optimizer(model, settings)
        self.progress = Progress()
        self.stages = settings.curriculum.stages

    def resume(self, directory: Path) -> None:
        """Go on from a checkpoint: weights, optimizer, progress; later metrics are dropped."""
        checkpoint.load_model(directory, self.model)
        checkpoint.load_optimizer(directory, self.optimizer)
        self.progress = Progress(**checkpoint.read_progress(directory))
        truncate_metrics(self.folder.metrics, self.progress.step)

    def run(self) -> Progress:
        """Train until the budget is spent, or ``stop_at`` is reached on validation examples.

        Raises TrainingError or Interrupted.
        """
        progress, settings = self.progress, self.settings
        self.model.train()
        with self.folder.metrics.open("a", encoding="utf-8") as file:
            while self._goes_on:
                started = time.perf_counter()
                metrics = self._step()
                if self._validates_now:
                    metrics["valid_accuracy"] = self._validated()
                progress.seconds += time.perf_counter() - started
                metrics["seconds"] = round(progress.seconds, 3)
                file.write(json.dumps(metrics) + "\n")
                file.flush()
                self.on_step(metrics)
                stop = self.should_stop()
                if stop or progress.step % settings.checkpoint_every == 0:
                    self.save()
                if stop and self._goes_on:
                    raise Interrupted
        self.save()
        self.model.enter_stage(None)
        self.model.eval()
        return progress

    @property
    def _goes_on(self) -> bool:
        return self.progress.tokens < self.settings.tokens and not self.progress.ended

    @property
    def _validates_now(self) -> bool:
        """Every so many steps, and when the budget is spent."""
        every = self.settings.validate_every
        if self.validate is None or every is None:
            return False
        return self.progress.step % every == 0 or self.progress.tokens >= self.settings.tokens

    def _validated(self) -> float:
        """Accuracy on the validation examples; training ends where it is `stop_at`."""
        progress, wanted = self.progress, self.settings.stop_at
        self.model.eval()
        progress.valid_accuracy = self.validate()
        self.model.train()
        progress.ended = wanted is not None and progress.valid_accuracy >= wanted
        return progress.valid_accuracy

    def save(self) -> Path:
        """Checkpoint now; it is `best` when no stage and accuracy so far was higher."""
        progress = self.progress
        reached = (progress.stage, progress.accuracy)
        best = reached >= (progress.best_stage, progress.best_accuracy)
        if best:
            progress.best_stage, progress.best_accuracy = reached
        return checkpoint.save_checkpoint(
            self.folder.checkpoints,
            self.model,
            self.optimizer,
            asdict(progress),
            best=best,
            tokenizer=self.tokenizer,
        )

    def _step(self) -> dict[str, float]:
        progress, settings = self.progress, self.settings
        started = time.perf_counter()
        stage = self.stages[progress.stage]
        self.model.enter_stage(stage)
        rate = learning_rate(settings, progress.step, progress.tokens / settings.tokens)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        sequences = max(settings.min_sequences, stage.sequences(settings.batch_tokens))
        micro = max(1, sequences // settings.accumulate)
        sums: dict[str, float] = {}
        before = progress.tokens
        self.optimizer.zero_grad(set_to_none=True)
        for _ in range(settings.accumulate):
            batch = self.streams(stage, progress.streams, micro)
            progress.streams += micro
            progress.tokens += batch.answer_mask.size
            progress.stage_tokens += batch.answer_mask.size
            loss, parts = self._loss(batch)
            if not torch.isfinite(loss):
                raise TrainingError(self._not_finite("loss"))
            (loss / settings.accumulate).backward()
            for name, value in parts.items():
                sums[name] = sums.get(name, 0.0) + float(value) / settings.accumulate
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), settings.clip)
        if not torch.isfinite(norm):
            raise TrainingError(self._not_finite("gradient"))
        self.optimizer.step()
        progress.step += 1
        progress.last_loss = sums["loss"]
        self._advance_curriculum(sums["answer_accuracy"])
        return {
            "step": progress.step,
            "tokens": progress.tokens,
            **sums,
            "running_accuracy": progress.accuracy,
            "gradient_norm": float(norm),
            "learning_rate": rate,
            "length_tokens": batch.inputs.shape[1],
            **stage.facts(),
            "tokens_per_second": (progress.tokens - before) / (time.perf_counter() - started),
        }

    def _loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy on answers, a little language modelling, and the price on changes."""
        settings = self.settings
        inputs = torch.from_numpy(batch.inputs).to(self.device, torch.long)
        targets = torch.from_numpy(batch.targets).to(self.device, torch.long)
        answers = torch.from_numpy(batch.answer_mask).to(self.device)
        bf16 = self.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            hidden, state = self._read(inputs, batch.starts)
            wanted = targets[answers]
            losses, likely = self.model.token_losses(hidden[answers], wanted)
            loss = answer_loss = losses.mean()
            if settings.language_modelling_weight:
                first = self.progress.step % LM_STRIDE
                others = self.model.logits(hidden[:, first::LM_STRIDE]).float()
                modelling = F.cross_entropy(
                    others.flatten(0, 1), targets[:, first::LM_STRIDE].flatten()
                )
                loss = loss + settings.language_modelling_weight * modelling
        auxiliary = self.model.auxiliary_losses()
        penalty = settings.change_penalty * self.stages[self.progress.stage].penalty_scale
        if penalty and self.progress.passed:
            for value in auxiliary.values():
                loss = loss + penalty * value
        correct = likely == wanted
        if self.tokenizer is not None:  # the end of an answer is easy and says nothing
            correct = correct[wanted != self.tokenizer.end_id]
        return loss, {
            "loss": loss.detach(),
            "answer_loss": answer_loss.detach(),
            "answer_accuracy": correct.float().mean(),
            **{name: value.detach() for name, value in auxiliary.items()},
            **self.model.metrics(state),
        }

    def _read(self, inputs: Tensor, starts: np.ndarray | None) -> tuple[Tensor, ModelState | None]:
        """Hidden states (B, T, width); and the last state, of which packed documents have many."""
        if starts is None:
            return self.forward(inputs)
        return packed_forward(self.model, inputs, starts, self.forward), None

    def _advance_curriculum(self, accuracy: float) -> None:
        progress, curriculum = self.progress, self.settings.curriculum
        progress.accuracy = SMOOTHING * progress.accuracy + (1 - SMOOTHING) * accuracy
        progress.stage_steps += 1
        passed = (
            progress.accuracy >= curriculum.threshold
            and progress.stage_steps >= curriculum.patience
        )
        longest = self.stages[progress.stage].longest
        share = curriculum.longest if longest is None else longest
        spent = progress.stage_tokens >= share * self.settings.tokens
        if (passed or spent) and progress.stage + 1 < len(self.stages):
            progress.stage += 1
            progress.passed = passed
            progress.stage_steps = progress.stage_tokens = 0

    def _not_finite(self, what: str) -> str:
        """One sentence: the step, the first parameter concerned and where to go on from."""
        for name, parameter in self.model.named_parameters():
            broken = parameter.grad if what == "gradient" else parameter
            if broken is not None and not torch.isfinite(broken).all():
                where = f"in {name}"
                break
        else:
            where = f"in {self._first_broken_layer()}"
        try:
            found = checkpoint.find_checkpoint(self.folder.checkpoints)
            good = f"the last good checkpoint is {found}"
        except checkpoint.CheckpointError:
            good = "no checkpoint was written yet"
        return (
            f"step {self.progress.step + 1}: the {what} is not finite {where}; {good}; lower "
            f"training.learning_rate or set model.memory.bounded_step=true"
        )

    @torch.no_grad()
    def _first_broken_layer(self) -> str:
        """The first block whose output is not finite on the batch that failed."""
        stage = self.stages[self.progress.stage]
        batch = self.streams(stage, self.progress.streams - 1, 1)
        x = self.model.embedding(torch.from_numpy(batch.inputs).to(self.device, torch.long))
        state = self.model.init_state(1)
        for index, (block, layer) in enumerate(zip(self.model.blocks, state.layers, strict=True)):
            x, _ = block(x, layer)
            if not torch.isfinite(x).all():
                return f"the output of blocks.{index}"
        return "the logits"


def build_optimizer(model: torch.nn.Module, settings: TrainingSettings) -> torch.optim.AdamW:
    """AdamW; matrices decay, vectors, gains and the memory's initial state do not."""
    groups: dict[bool, list] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        groups[parameter.dim() == 2 and ".initial." not in name].append(parameter)
    return torch.optim.AdamW(
        [
            {"params": groups[True], "weight_decay": settings.weight_decay},
            {"params": groups[False], "weight_decay": 0.0},
        ],
        lr=settings.learning_rate,
        betas=tuple(settings.betas),
    )


def learning_rate(settings: TrainingSettings, step: int, share: float) -> float:
    """Linear warm-up, then a cosine over the share of the token budget that is spent."""
    warm = min(1.0, (step + 1) / max(1, settings.warmup_steps))
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
    return (
        settings.learning_rate * warm * (settings.final_rate + (1 - settings.final_rate) * cosine)
    )
