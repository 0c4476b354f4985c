"""The learner of online tasks: small networks that learn while they are measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from atlas_bench.artifacts.checkpoint import newest_undamaged
from atlas_bench.artifacts.folder import RunFolder
from atlas_bench.evaluation.learner import Cost, Learner
from atlas_bench.models.language_model import count_parameters
from atlas_bench.runs.settings import RunSettings
from atlas_bench.tasks.learnability.online import OnlineTask
from atlas_bench.training.online import OnlineTraining, build_learner
from atlas_bench.training.progress import Progress

ONE_STEP_A_TOKEN = "one step a token takes the time of reading the weights, not that of products"


class OnlineNetworks(Learner):
    """One network for each sequence of the task; its facts are those of one network."""

    precision = "float32"

    def __init__(self, settings: RunSettings) -> None:
        self.settings = settings
        self.name, self.scale = settings.task.model_name, settings.task.scale_name
        self.network = build_learner(settings.task, settings.seed, 1)
        self.parameters = count_parameters(self.network)

    def describe(self) -> str:
        return (
            f"{self.name} at {self.scale}: {self.parameters:,} parameters\n"
            f"  state of one sequence in float32, bytes: {self.state_bytes(0):,}"
        )

    def cost(self) -> Cost:
        return Cost(self.settings.task.length, self.parameters, missing=ONE_STEP_A_TOKEN)

    def prepare(self, folder: RunFolder, device: torch.device) -> OnlineTask:
        self.device = device
        return self.settings.make_task()

    def state_bytes(self, length: int) -> int:
        return self.network.state_bytes(1, length)

    def train(self, task: OnlineTask, **_: Any) -> Progress:
        """The networks learn while they are measured; each sees the tokens of one sequence."""
        return Progress(tokens=task.settings.length)

    def learn(
        self,
        task: OnlineTask,
        *,
        folder: RunFolder,
        console: Console,
        on_token: Callable[[dict[str, float]], None],
        should_stop: Callable[[], bool],
    ) -> tuple[Tensor, int]:
        """Continues from the last checkpoint in a resumed run's folder."""
        networks = build_learner(task.settings, self.settings.seed, task.settings.sequences)
        inputs, targets = (torch.from_numpy(each).to(self.device) for each in task.pairs())
        learning = OnlineTraining(
            networks.to(self.device),
            inputs,
            targets,
            folder=folder.path,
            on_line=on_token,
            should_stop=should_stop,
        )
        if self.settings.resume is not False and folder.can_resume:
            learning.resume(newest_undamaged(folder.checkpoints))
            console.print(f"resuming at token {learning.tokens}")
        before = learning.tokens
        losses = learning.run()
        return losses, task.settings.sequences * (task.settings.length - before)
