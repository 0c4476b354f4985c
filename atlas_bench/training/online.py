"""Online learning: one optimizer step per token, for many small networks side by side.

Every sequence has its own network. Networks share no weights, so the gradient of the sum of their
losses is each network's own gradient, and an optimizer that works element by element takes the step
that it would take for each network alone.

Legend: S sequences, T tokens, D their dimension.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atlas_bench.artifacts import checkpoint
from atlas_bench.artifacts.folder import RunFolder, append_lines, truncate_metrics
from atlas_bench.interrupts import Interrupted
from atlas_bench.models.language_model import count_parameters
from atlas_bench.seeding import generator
from atlas_bench.tasks.learnability.online import LearnerSettings, OnlineSettings
from atlas_bench.training.errors import TrainingError

LOGGED_TOKENS = 16  # tokens per line of metrics.jsonl
SAVE_SECONDS = 60.0  # between two checkpoints
MOMENTS = {"adam": 2, "rmsprop": 1, "sgd": 0}  # numbers that the optimizer keeps per weight


class OnlineLearner(nn.Module):
    """Networks of the same shape, without biases; weights (S, inputs, outputs)."""

    def __init__(
        self, settings: LearnerSettings, dimension: int, draws: Sequence[np.random.Generator]
    ) -> None:
        """One network per generator in ``draws``; weights are normal with variance 1 / inputs."""
        super().__init__()
        self.settings = settings
        self.activation = getattr(F, settings.activation)
        sizes = [dimension, *[settings.expansion * dimension] * settings.layers, dimension]
        self.weights = nn.ParameterList(
            torch.from_numpy(
                np.stack([rng.standard_normal(shape, dtype=np.float32) for rng in draws])
            )
            * shape[0] ** -0.5
            for shape in itertools.pairwise(sizes)
        )

    def forward(self, x_SD: Tensor) -> Tensor:
        """One token of every sequence through its own network: (S, D) -> (S, D)."""
        *hidden_layers, last = self.weights
        x_S1D = x_SD[:, None]
        for weight in hidden_layers:
            x_S1D = self.activation(x_S1D @ weight)
        return (x_S1D @ last)[:, 0]

    def state_bytes(self, batch: int, length: int) -> int:
        """Bytes that are kept of ``batch`` sequences, at any ``length``: weights and moments."""
        numbers = count_parameters(self) // len(self.weights[0])
        return 4 * batch * numbers * (1 + MOMENTS[self.settings.optimizer])


def build_learner(settings: OnlineSettings, seed: int, sequences: int) -> OnlineLearner:
    """The networks of the first ``sequences`` sequences, for the run's ``seed`` and the task's."""
    draws = [generator("learner", seed, settings.seed, number) for number in range(sequences)]
    return OnlineLearner(settings.learner, settings.dimension, draws)


def build_optimizer(learner: OnlineLearner) -> torch.optim.Optimizer:
    """The configured optimizer; all but the learning rate has PyTorch's defaults."""
    rate, weights = learner.settings.learning_rate, learner.parameters()
    if learner.settings.optimizer == "rmsprop":
        return torch.optim.RMSprop(weights, rate)
    optimizer = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[learner.settings.optimizer]
    return optimizer(weights, rate, fused=True)


def relative_loss(outputs_SD: Tensor, targets_SD: Tensor) -> Tensor:
    """|M(i) - o|^2 / |o|^2 of each sequence, (S,).

    The paper prints the numerator |i - o|^2, which does not depend on the network.
    """
    return (outputs_SD - targets_SD).square().sum(-1) / targets_SD.square().sum(-1)


class OnlineTraining:
    """Learns sequences token by token; writes only to ``folder``."""

    def __init__(
        self,
        learner: OnlineLearner,
        inputs_STD: Tensor,
        targets_STD: Tensor,
        *,
        folder: Path,
        on_line: Callable[[dict[str, float]], None] = lambda line: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.learner, self.optimizer = learner, build_optimizer(learner)
        # The vectors of one token of all sequences are adjacent.
        self.inputs_TSD, self.targets_TSD = (
            vectors.transpose(0, 1).contiguous() for vectors in (inputs_STD, targets_STD)
        )
        self.folder = RunFolder(folder)
        self.on_line, self.should_stop = on_line, should_stop
        self.tokens, self.seconds = 0, 0.0
        # Saved with the weights, so that a resumed run has all losses at the end.
        learner.register_buffer("losses_TS", self.targets_TSD.new_zeros(self.targets_TSD.shape[:2]))

    def resume(self, source: Path) -> None:
        """Continue from a checkpoint."""
        checkpoint.load_model(source, self.learner)
        checkpoint.load_optimizer(source, self.optimizer)
        progress = checkpoint.read_progress(source)
        self.tokens, self.seconds = progress["step"], progress["seconds"]

    def run(self) -> Tensor:
        """The loss of every token before the step on it, (S, T).

        Raises TrainingError if one is not finite, Interrupted after a signal.
        """
        truncate_metrics(self.folder.metrics, self.tokens)
        started = time.perf_counter() - self.seconds
        saved_at = time.perf_counter()
        while self.tokens < len(self.inputs_TSD):
            self._step()
            self.seconds = time.perf_counter() - started
            if self.tokens % LOGGED_TOKENS == 0 or self.tokens == len(self.inputs_TSD):
                line = self._line()
                append_lines(self.folder.metrics, [line])
                self.on_line(line)
            stop = self.should_stop()
            if stop or time.perf_counter() - saved_at > SAVE_SECONDS:
                progress = {"step": self.tokens, "seconds": self.seconds}
                checkpoint.save_checkpoint(
                    self.folder.checkpoints, self.learner, self.optimizer, progress, best=True
                )
                saved_at = time.perf_counter()
            if stop and self.tokens < len(self.inputs_TSD):
                raise Interrupted
        return self.learner.losses_TS.T

    def _step(self) -> None:
        outputs_SD = self.learner(self.inputs_TSD[self.tokens])
        loss_S = relative_loss(outputs_SD, self.targets_TSD[self.tokens])
        self.optimizer.zero_grad()
        loss_S.sum().backward()
        self.optimizer.step()
        self.learner.losses_TS[self.tokens] = loss_S.detach()
        self.tokens += 1

    def _line(self) -> dict[str, float]:
        """A line of metrics.jsonl: the mean loss since the line before."""
        first = (self.tokens - 1) // LOGGED_TOKENS * LOGGED_TOKENS
        loss = float(self.learner.losses_TS[first : self.tokens].mean())
        if not np.isfinite(loss):
            learner = self.learner.settings
            raise TrainingError(
                f"a loss of tokens {first} to {self.tokens - 1} is not finite with "
                f"task.learner.optimizer={learner.optimizer}; lower "
                f"task.learner.learning_rate={learner.learning_rate}"
            )
        return {
            "step": self.tokens,
            "tokens": self.tokens,
            "loss": loss,
            "seconds": round(self.seconds, 3),
        }
