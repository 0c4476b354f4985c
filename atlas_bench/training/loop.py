"""The training loop: batches of a curriculum's stages, steps of the optimizer, exact resume.

Everything random is a function of (seed, step), so on the same machine and thread count a resumed
run repeats an uninterrupted one to the bit. What happens between steps is in callbacks.py.

Legend: B sequences, T tokens, A answer tokens of the batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from atlas_bench.artifacts import checkpoint
from atlas_bench.artifacts.folder import RunFolder
from atlas_bench.artifacts.schema import StageEnd
from atlas_bench.models.language_model import LanguageModel
from atlas_bench.models.packing import packed_forward
from atlas_bench.tasks.stages import Stage
from atlas_bench.tasks.task import Batch
from atlas_bench.text.tokenizer import Tokenizer
from atlas_bench.training.callbacks import Callback, Checkpoints, MetricsFile, Validation
from atlas_bench.training.errors import TrainingError, not_finite
from atlas_bench.training.optimization import build_optimizer, clip_gradients, learning_rate
from atlas_bench.training.progress import Progress, progress_of
from atlas_bench.training.settings import TrainingSettings

LM_STRIDE = 8  # the language-modelling term uses every eighth token: cheaper, same direction
SMOOTHING = 0.9  # share of the old value in the running accuracy that the curriculum uses

# (stage, first sequence, number of sequences) -> Batch
MakeBatch = Callable[[Stage, int, int], Batch]


class Trainer:
    """Trains ``model`` on the batches of ``make_batch``; writes only to ``folder``.

    ``validate`` returns the accuracy on validation examples. ``callbacks`` see the metrics of every
    step after they are written to metrics.jsonl and before a checkpoint is saved. When
    ``should_stop`` returns True, the trainer saves a checkpoint and raises Interrupted.
    """

    def __init__(
        self,
        model: LanguageModel,
        make_batch: MakeBatch,
        settings: TrainingSettings,
        *,
        folder: Path,
        tokenizer: Tokenizer | None,
        device: torch.device,
        precision: str = "float32",
        forward: Callable | None = None,
        validate: Callable[[], float] | None = None,
        callbacks: Sequence[Callback] = (),
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.model, self.make_batch, self.settings = model, make_batch, settings
        self.folder, self.tokenizer = RunFolder(folder), tokenizer
        self.device, self.precision = device, precision
        self.forward = forward or model  # a compiled model shares its parameters with `model`
        self.optimizer = build_optimizer(model, settings)
        self.saved_step: int | None = None  # of the last checkpoint
        self.stages = settings.curriculum.stages
        self.progress = Progress(ends=[] if len(self.stages) > 1 else None)
        validation = [] if validate is None else [Validation(validate)]
        self.callbacks = [*validation, MetricsFile(), *callbacks, Checkpoints(should_stop)]

    @property
    def finished(self) -> bool:
        """Whether the budget is spent, or ``training.stop_at`` is reached."""
        return self.progress.tokens >= self.settings.tokens or self.progress.ended

    def run(self) -> Progress:
        """Train until `finished`. Raises TrainingError or Interrupted."""
        self.model.train()
        try:
            for callback in self.callbacks:
                callback.on_start(self)
            while not self.finished:
                started = time.perf_counter()
                metrics = self._step()
                self.progress.seconds += time.perf_counter() - started
                for callback in self.callbacks:
                    callback.on_step(self, metrics)
            for callback in self.callbacks:
                callback.on_end(self)
        finally:
            for callback in self.callbacks:
                callback.close()
        self.model.enter_stage(None)
        self.model.eval()
        return self.progress

    # checkpoints -------------------------------------------------------------------------------

    def save(self) -> None:
        """Write a checkpoint unless this step has one.

        It is `best` if no stage and accuracy so far was higher. The steps of
        ``training.checkpoint_every`` and the last one decide that, so neither the clock nor a stop
        does; until there is one of them, the newest checkpoint is the best.
        """
        progress = self.progress
        if progress.step == self.saved_step:
            return
        if self.finished or progress.step % self.settings.checkpoint_every == 0:
            reached = (progress.stage, progress.accuracy)
            best = reached >= (progress.best_stage, progress.best_accuracy)
            if best:
                progress.best_stage, progress.best_accuracy = reached
        else:
            best = progress.best_stage < 0
        checkpoint.save_checkpoint(
            self.folder.checkpoints,
            self.model,
            self.optimizer,
            asdict(progress),
            best=best,
            tokenizer=self.tokenizer,
        )
        self.saved_step = progress.step

    def resume(self, directory: Path) -> None:
        """Continue from a checkpoint: weights, optimizer and progress."""
        checkpoint.load_model(directory, self.model)
        checkpoint.load_optimizer(directory, self.optimizer)
        progress = self.progress = progress_of(directory)
        reached = (progress.stage, progress.accuracy)
        best = reached == (progress.best_stage, progress.best_accuracy) or progress.best_stage < 0
        checkpoint.point_to(directory, best=best)  # a kill can come before the pointers are written
        self.saved_step = progress.step

    # one step ----------------------------------------------------------------------------------

    def _step(self) -> dict[str, float]:
        """One step of the optimizer on ``training.accumulate`` batches; its metrics."""
        progress, settings = self.progress, self.settings
        started, tokens_before = time.perf_counter(), progress.tokens
        stage = self.stages[progress.stage]
        self.model.enter_stage(stage)
        rate = learning_rate(settings, progress.step, progress.tokens / settings.tokens)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        sequences = settings.step_sequences(stage) // settings.accumulate
        means: dict[str, float] = {}
        self.optimizer.zero_grad(set_to_none=True)
        for _ in range(settings.accumulate):
            batch = self.make_batch(stage, progress.sequences, sequences)
            progress.sequences += sequences
            progress.tokens += batch.answer_mask.size
            progress.stage_tokens += batch.answer_mask.size
            loss, metrics = self._loss(batch)
            if not torch.isfinite(loss):
                raise self._not_finite("loss")
            (loss / settings.accumulate).backward()
            for name, value in metrics.items():
                means[name] = means.get(name, 0.0) + float(value) / settings.accumulate
        norm = clip_gradients(self.model, settings.clip)
        if not math.isfinite(norm):
            raise self._not_finite("gradient")
        self.optimizer.step()
        progress.step += 1
        progress.last_loss = means["loss"]
        self._advance_curriculum(means["answer_accuracy"])
        return {
            "step": progress.step,
            "tokens": progress.tokens,
            **means,
            "running_accuracy": progress.accuracy,
            "gradient_norm": norm,
            "learning_rate": rate,
            "length_tokens": batch.inputs.shape[1],
            **stage.facts(),
            "tokens_per_second": (progress.tokens - tokens_before)
            / (time.perf_counter() - started),
        }

    def _loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and its metrics: answers, a little language modelling, the model's own terms."""
        settings = self.settings
        inputs_BT = torch.from_numpy(batch.inputs).to(self.device, torch.long)
        targets_BT = torch.from_numpy(batch.targets).to(self.device, torch.long)
        answers_BT = torch.from_numpy(batch.answer_mask).to(self.device)
        bf16 = self.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            if batch.starts is None:
                hidden, state = self.forward(inputs_BT)
            else:  # every document leaves a state of its own
                hidden = packed_forward(self.model, inputs_BT, batch.starts, self.forward)
                state = None
            targets_A = targets_BT[answers_BT]
            losses_A, predictions_A = self.model.token_losses(hidden[answers_BT], targets_A)
            loss = answer_loss = losses_A.mean()
            if settings.language_modelling_weight:
                first = self.progress.step % LM_STRIDE
                logits = self.model.logits(hidden[:, first::LM_STRIDE]).float()
                language_modelling = F.cross_entropy(
                    logits.flatten(0, 1), targets_BT[:, first::LM_STRIDE].flatten()
                )
                loss = loss + settings.language_modelling_weight * language_modelling
        auxiliary = self.model.auxiliary_losses()
        penalty = settings.change_penalty * self.stages[self.progress.stage].penalty_scale
        if penalty and self.progress.passed:
            for value in auxiliary.values():
                loss = loss + penalty * value
        correct = predictions_A == targets_A
        if self.tokenizer is not None:  # the end of an answer is easy and says nothing
            correct = correct[targets_A != self.tokenizer.end_id]
        return loss, {
            "loss": loss.detach(),
            "answer_loss": answer_loss.detach(),
            "answer_accuracy": correct.float().mean(),
            **{name: value.detach() for name, value in auxiliary.items()},
            **self.model.metrics(state),
        }

    def _advance_curriculum(self, accuracy: float) -> None:
        """Enter the next stage once the answers are right, or the stage's share is spent."""
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
        is_last = progress.stage + 1 == len(self.stages)
        ended = passed if is_last else passed or spent
        if (
            ended
            and progress.ends is not None
            and all(end.stage != progress.stage for end in progress.ends)
        ):
            progress.ends.append(StageEnd(progress.stage, progress.tokens, passed))
        if ended and not is_last:
            progress.stage += 1
            progress.passed = passed
            progress.stage_steps = progress.stage_tokens = 0

    def _not_finite(self, what: str) -> TrainingError:
        """The error for a loss or gradient of the last batch that is not finite."""
        progress = self.progress
        batch = self.make_batch(self.stages[progress.stage], progress.sequences - 1, 1)
        tokens = torch.from_numpy(batch.inputs).to(self.device, torch.long)
        return not_finite(what, self.model, tokens, step=progress.step + 1, folder=self.folder)
