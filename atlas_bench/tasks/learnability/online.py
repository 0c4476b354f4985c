"""Tasks that are learnt while they are measured: a small network takes one step for each token.

A run of such a task has no language model, and no training before its scores. It measures the
losses of a network that predicts every token before it takes its step on that token.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field

import numpy as np

from atlas_bench.config.bounds import bounded
from atlas_bench.tasks.task import ONLINE, MetricValue, Task, TaskSettings
from atlas_bench.text.settings import TextSettings

OPTIMIZERS = ("adam", "rmsprop", "sgd")
ACTIVATIONS = ("gelu", "relu", "silu")


@dataclass
class LearnerSettings:
    """The network, which has no biases, and its optimizer."""

    layers: int = bounded(2, at_least=1)  # hidden layers
    expansion: int = bounded(1, at_least=1)  # width of hidden layers, in widths of a token
    activation: str = bounded("gelu", one_of=ACTIVATIONS)  # activation of the hidden layers
    # With PyTorch's defaults for all but the learning rate.
    optimizer: str = bounded("adam", one_of=OPTIMIZERS)
    learning_rate: float = bounded(1e-3, above=0)  # learning rate of the one step for each token


@dataclass
class OnlineSettings(TaskSettings):
    """The keys of all tasks that are learnt while they are measured."""

    learner: LearnerSettings = field(default_factory=LearnerSettings)
    dimension: int = bounded(64, at_least=1)  # size of every token
    length: int = bounded(1024, at_least=1)  # tokens of a sequence
    # Number of sequences, each with its own target and network; losses are their mean.
    sequences: int = bounded(8, at_least=1)

    kind = ONLINE

    @property
    def model_name(self) -> str:
        """The network and its optimizer, where other records have the name of a model."""
        learner = self.learner
        return f"mlp_{learner.layers}x{learner.expansion}_{learner.optimizer}"

    @property
    def scale_name(self) -> str:
        """The width, where other records have the name of a scale."""
        return f"d{self.dimension}"

    def vocabulary_size(self, text: TextSettings) -> int:
        return 0

    def for_validation(self, samples: int) -> OnlineSettings:
        return self.with_other_samples(sequences=samples)


class OnlineTask(Task):
    """Sequences of inputs and outputs, whose tokens are vectors."""

    vocab_size = 0

    @abstractmethod
    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and outputs, float32 (sequences, length, dimension). The run's seed, the task's
        and the number of a sequence decide it."""

    @abstractmethod
    def judge(self, losses: np.ndarray) -> list[MetricValue]:
        """The scores of losses (sequences, length), each of them before the step on its token."""
