"""The learner that does not learn: a pretrained model of the hub, evaluated as it is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from rich.console import Console
from torch import nn

from atlas_bench.artifacts.folder import RunFolder
from atlas_bench.evaluation.learner import Cost, Learner
from atlas_bench.evaluation.streaming import Generated, Prompt
from atlas_bench.models.language_model import count_parameters
from atlas_bench.runs.settings import RunSettings
from atlas_bench.tasks.task import Task
from atlas_bench.training.progress import Progress

PROMPT_PARTS = ("instruction", "examples", "post_prompt")


class PretrainedModel(Learner):
    """``model.name`` is a repository of the hub or a local folder."""

    scale = "pretrained"

    def __init__(self, settings: RunSettings) -> None:
        self.settings, self.name = settings, settings.model.name

    def describe(self) -> str:
        self._cannot("be described, because it is pretrained")

    def cost(self) -> Cost:
        return Cost(0, missing="a pretrained model is not counted")

    def prepare(self, folder: RunFolder, device: torch.device) -> Task:
        """The task gets the model's own tokenizer, and the prompts of a pretrained model."""
        from atlas_bench.evaluation.lm_eval.hub_models import HubModel, save_tokenizer

        settings = self.settings
        self.model = HubModel(settings.model, device)
        self.parameters = count_parameters(self.model.model)
        self.precision = settings.hardware.precision_on(device.type)
        tokenizer = save_tokenizer(self.model.tokenizer, self.name, folder.tokenizer)
        task = settings.make_task(tokenizer)
        return task.for_pretrained(
            {part: getattr(settings.model.hub, part) for part in PROMPT_PARTS}
        )

    @property
    def module(self) -> nn.Module:
        return self.model.model

    def state_bytes(self, length: int) -> None:
        """Unknown: every architecture keeps another state."""

    def train(self, task: Task, *, console: Console, **_: Any) -> Progress:
        console.print(f"evaluating {self.name}, as it is")
        return Progress()

    def generate(self, prompts: Iterable[Prompt], *, end_id: int, **options: Any) -> Generated:
        """Answers end at the model's own end tokens instead of ``end_id``."""
        batch_tokens = self.settings.hardware.batch_tokens
        return self.model.generate(prompts, batch_tokens=batch_tokens, **options)

    def lm_eval_model(self, task: Task) -> Any:
        return self.model
