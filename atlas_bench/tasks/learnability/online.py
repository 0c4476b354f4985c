"""Tasks that are learnt while they are measured: one step a token, by a small network of their own.

A run of such a task has no language model and no training before its scores. What it shows are the
losses of a network that predicts every token before it takes its step on it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from atlas_bench.naming import check_choice
from atlas_bench.tasks.task import Measured, TaskSettings, check_counts

OPTIMIZERS = ("adam", "rmsprop", "sgd")
ACTIVATIONS = ("gelu", "relu", "silu")


@dataclass
class LearnerSettings:
    """The network that learns, which has no biases, and its optimizer."""

    layers: int = 2  # that are hidden
    expansion: int = 1  # of their width over the tokens'
    activation: str = "gelu"  # of the hidden layers
    optimizer: str = "adam"  # with PyTorch's defaults but for the rate
    learning_rate: float = 1e-3  # of the one step that each token is


@dataclass
class OnlineSettings(TaskSettings):
    """What all tasks have that are learnt while they are measured."""

    learner: LearnerSettings = field(default_factory=LearnerSettings)
    dimension: int = 64  # of every token
    length: int = 1024  # tokens of a sequence
    sequences: int = 8  # each with a target and a network of its own; losses are their mean

    @property
    def model_name(self) -> str:
        """What stands for a model in records: the network and its optimizer."""
        learner = self.learner
        return f"mlp_{learner.layers}x{learner.expansion}_{learner.optimizer}"

    @property
    def scale_name(self) -> str:
        """What stands for its scale."""
        return f"d{self.dimension}"


def check_online(task: OnlineSettings) -> None:
    """Raise ValueError in one sentence for a network or sequences that cannot be."""
    learner = task.learner
    check_counts(task, "dimension", "length", "sequences")
    for key in ("layers", "expansion"):
        if getattr(learner, key) < 1:
            raise ValueError(f"task.learner.{key}={getattr(learner, key)} must be at least 1")
    check_choice("task.learner.activation", learner.activation, ACTIVATIONS)
    check_choice("task.learner.optimizer", learner.optimizer, OPTIMIZERS)
    if learner.learning_rate <= 0:
        raise ValueError(f"task.learner.learning_rate={learner.learning_rate} must be above 0")


@runtime_checkable
class OnlineTask(Protocol):
    """Sequences of inputs and outputs. ``tokenizer`` is None: its tokens are vectors."""

    settings: OnlineSettings
    tokenizer: None
    vocab_size: int

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and outputs, float32 (sequences, length, dimension), decided by the run's seed,
        the task's and the number of the sequence alone."""

    def judge(self, losses: np.ndarray) -> list[Measured]:
        """The scores of losses (sequences, length), each before the step of its token."""

    def protocol(self) -> dict[str, Any]:
        """How it is measured, for the record: runs whose protocols differ are not averaged."""
