"""Online learning: one step of an optimizer a token, of many small networks side by side.

Shapes: S sequences, each with a network of its own, T tokens, D their dimension. Networks share no
weight, so the gradient of the sum of their losses is every network's own, and an optimizer that
works element by element takes for each the step that it would take alone.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atlas_bench.artifacts import checkpoint
from atlas_bench.artifacts.folder import RunFolder, truncate_metrics
from atlas_bench.interrupts import Interrupted
from atlas_bench.models.language_model import count_parameters
from atlas_bench.seeding import generator
from atlas_bench.tasks.learnability.online import LearnerSettings, OnlineSettings
from atlas_bench.training.errors import TrainingError

LOGGED_TOKENS = 16  # of one line of metrics.jsonl
SAVE_SECONDS = 60.0  # between two checkpoints
ACTIVATIONS = {"gelu": F.gelu, "relu": F.relu, "silu": F.silu}
MOMENTS = {"adam": 2, "rmsprop": 1, "sgd": 0}  # that an optimizer keeps of every weight


class OnlineLearner(nn.Module):
    """Networks of the same shape, without biases; weights (S, inputs, outputs)."""

    def __init__(
        self, settings: LearnerSettings, dimension: int, draws: Sequence[np.random.Generator]
    ) -> None:
        """One network for each of ``draws``, which its weights come from: normal, of variance
        1 / inputs."""
        super().__init__()
        self.settings = settings
        self.activation = ACTIVATIONS[settings.activation]
        sizes = [dimension, *[settings.expansion * dimension] * settings.layers, dimension]
        self.weights = nn.ParameterList(
            torch.from_numpy(
                np.stack([rng.standard_normal(shape, dtype=np.float32) for rng in draws])
            )
            * shape[0] ** -0.5
            for shape in itertools.pairwise(sizes)
        )

    def forward(self, x_SD: Tensor) -> Tensor:
        """What each network makes of its own sequence's token, (S, D)."""
        *hidden, last = self.weights
        x_S1D = x_SD[:, None]
        for weight in hidden:
            x_S1D = self.activation(x_S1D @ weight)
        return (x_S1D @ last)[:, 0]

    def state_bytes(self, batch: int, length: int) -> int:
        """Of ``batch`` sequences after any ``length``: weights and the optimizer's moments, which
        are all that is kept of a sequence."""
        numbers = count_parameters(self) // len(self.weights[0])
        return 4 * batch * numbers * (1 + MOMENTS[self.settings.optimizer])


def build_learner(settings: OnlineSettings, seed: int, sequences: int) -> OnlineLearner:
    """The networks of the first ``sequences``, decided by the run's ``seed`` and the task's."""
    draws = [generator("learner", seed, settings.seed, number) for number in range(sequences)]
    return OnlineLearner(settings.learner, settings.dimension, draws)


def build_optimizer(learner: OnlineLearner) -> torch.optim.Optimizer:
    """With PyTorch's defaults for all but the learning rate."""
    rate, weights = learner.settings.learning_rate, learner.parameters()
    if learner.settings.optimizer == "rmsprop":
        return torch.optim.RMSprop(weights, rate)
    kind = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[learner.settings.optimizer]
    return kind(weights, rate, fused=True)


def relative_loss(found_SD: Tensor, wanted_SD: Tensor) -> Tensor:
    """|M(i) - o|^2 / |o|^2 of each sequence, (S,). The paper prints |i - o|^2 above the line, in
    which nothing is learnt."""
    return (found_SD - wanted_SD).square().sum(-1) / wanted_SD.square().sum(-1)


class OnlineTraining:
    """Learns sequences token by token; what it writes goes to ``folder``."""

    def __init__(
        self,
        learner: OnlineLearner,
        inputs_STD: Tensor,
        wanted_STD: Tensor,
        *,
        folder: Path,
        on_line: Callable[[dict[str, float]], None] = lambda line: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.learner, self.optimizer = learner, build_optimizer(learner)
        # A token's vectors of all sequences side by side.
        self.inputs_TSD, self.wanted_TSD = (
            each.transpose(0, 1).contiguous() for each in (inputs_STD, wanted_STD)
        )
        self.folder = RunFolder(folder)
        self.on_line, self.should_stop = on_line, should_stop
        self.tokens, self.seconds = 0, 0.0
        # Saved with the weights: a run that goes on has all losses in the end.
        learner.register_buffer("losses_TS", self.wanted_TSD.new_zeros(self.wanted_TSD.shape[:2]))

    def resume(self) -> None:
        """Go on from the folder's last checkpoint."""
        source = checkpoint.find_checkpoint(self.folder.path)
        checkpoint.load_model(source, self.learner)
        checkpoint.load_optimizer(source, self.optimizer)
        progress = checkpoint.read_progress(source)
        self.tokens, self.seconds = progress["step"], progress["seconds"]

    def run(self) -> Tensor:
        """The loss of every token before the step on it, (S, T).

        Raises TrainingError where one is not finite, Interrupted after a signal.
        """
        path = self.folder.metrics
        truncate_metrics(path, self.tokens)
        began = time.perf_counter() - self.seconds
        saved = time.perf_counter()
        with path.open("a", encoding="utf-8") as file:
            while self.tokens < len(self.inputs_TSD):
                self._step()
                self.seconds = time.perf_counter() - began
                if self.tokens % LOGGED_TOKENS == 0 or self.tokens == len(self.inputs_TSD):
                    line = self._line()
                    file.write(json.dumps(line) + "\n")
                    file.flush()
                    self.on_line(line)
                stop = self.should_stop()
                if stop or time.perf_counter() - saved > SAVE_SECONDS:
                    self._save()
                    saved = time.perf_counter()
                if stop and self.tokens < len(self.inputs_TSD):
                    raise Interrupted
        return self.learner.losses_TS.T

    def _step(self) -> None:
        wanted_SD = self.wanted_TSD[self.tokens]
        loss_S = relative_loss(self.learner(self.inputs_TSD[self.tokens]), wanted_SD)
        self.optimizer.zero_grad()
        loss_S.sum().backward()
        self.optimizer.step()
        self.learner.losses_TS[self.tokens] = loss_S.detach()
        self.tokens += 1

    def _line(self) -> dict[str, float]:
        """The mean loss since the line before."""
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

    def _save(self) -> None:
        progress = {"step": self.tokens, "seconds": self.seconds}
        folder = self.folder.checkpoints
        checkpoint.save_checkpoint(folder, self.learner, self.optimizer, progress, best=True)
