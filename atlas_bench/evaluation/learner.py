"""The contract of a learner: what a run trains or loads, and what evaluators ask.

runs/learners/ has one file per learner and the registry. A learner implements what it can do; the
rest raises ConfigError in one sentence.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from rich.console import Console
from torch import Tensor, nn

from atlas_bench.artifacts.folder import RunFolder
from atlas_bench.config.errors import ConfigError
from atlas_bench.evaluation.pieces import Once, each_time
from atlas_bench.evaluation.streaming import Generated, Prompt
from atlas_bench.tasks.task import Batch, Task, TokenPredictions
from atlas_bench.tracking import Tracker
from atlas_bench.training.progress import Progress


@dataclass(frozen=True)
class Cost:
    """The counted cost of a training. ``missing`` says why a number is None."""

    tokens: int
    parameters: int | None = None
    flops_per_token: float | None = None
    missing: str | None = None


class Learner(ABC):
    """``name`` and ``scale`` are those of the record.

    A learner is cheap until `prepare`: a dry run asks `cost`, ``mode=describe`` asks `describe`.
    """

    name: str
    scale: str

    @abstractmethod
    def describe(self) -> str:
        """Parameters, state and operations in words. Raises ValueError for an impossible model."""

    @abstractmethod
    def cost(self) -> Cost:
        """The cost of the training. Raises ValueError for an impossible model."""

    @abstractmethod
    def prepare(self, folder: RunFolder, device: torch.device) -> Task:
        """Build or load the weights on ``device``, and make the task with the right tokenizer.

        Files that belong to the learner go to ``folder``. Raises ValueError in one sentence.
        """

    # after `prepare` ---------------------------------------------------------------------------

    parameters: int
    precision: str  # of products

    @property
    def module(self) -> nn.Module | None:
        """What is evaluated; None for networks that learn while they are measured."""
        return None

    @abstractmethod
    def state_bytes(self, length: int) -> int | None:
        """Bytes of the state of one sequence after ``length`` tokens; None if unknown."""

    @abstractmethod
    def train(
        self,
        task: Task,
        *,
        folder: RunFolder,
        console: Console,
        tracker: Tracker,
        should_stop: Callable[[], bool],
    ) -> Progress:
        """Train as far as the run asks for it; a resumed run continues from ``folder``.

        Raises TrainingError or Interrupted.
        """

    def generate(
        self,
        prompts: Iterable[Prompt],
        *,
        max_new: int,
        end_id: int,
        on_prompt: Callable[[], None] = lambda: None,
        once: Once = each_time,
    ) -> Generated:
        """Greedy answers of at most ``max_new`` tokens that end before ``end_id``.

        Every batch is a piece of ``once``. Raises DoesNotFit for contexts that are too long.
        """
        self._cannot("answer questions")

    def predict(self, batch: Batch, *, first_example: int = 0) -> TokenPredictions:
        """The most likely tokens at the labelled positions, and the losses of the targets.

        Raises DoesNotFit for sequences that are too long.
        """
        self._cannot("predict token by token")

    def lm_eval_model(self, task: Task) -> Any:
        """The model as lm-eval asks it, with ``tokens_read`` and ``on_text``."""
        self._cannot("run lm-eval's tasks")

    def learn(
        self,
        task: Task,
        *,
        folder: RunFolder,
        console: Console,
        on_token: Callable[[dict[str, float]], None],
        should_stop: Callable[[], bool],
    ) -> tuple[Tensor, int]:
        """The loss (S, T) of every token of S sequences, before the step on that token; and the
        number of tokens learnt by this call, which is smaller in a resumed run."""
        self._cannot("learn while it is measured")

    def _cannot(self, what: str) -> NoReturn:
        raise ConfigError(f"model={self.name} cannot {what}; choose another task or model")
