"""The schema: one dataclass per config group; Hydra checks every key and type against it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from atlas_bench.config.bounds import bounded
from atlas_bench.config.schema import HardwareSettings, LoggerSettings
from atlas_bench.models.settings import ModelSettings, ScaleSettings
from atlas_bench.tasks.task import Task, TaskSettings
from atlas_bench.text.settings import TextSettings
from atlas_bench.training.settings import TrainingSettings


@dataclass
class RunSettings:
    """The whole config of one run."""

    # describe prints what a model costs and runs nothing.
    mode: str = bounded("train_eval", one_of=("train", "eval", "train_eval", "describe"))
    seed: int = 0  # seed of initial weights and training data; task.seed is for evaluation
    name: str = "???"  # name of the run's folder and in W&B; conf/ sets it to model and task
    checkpoint: str | None = None  # for mode=eval: RUN, RUN/checkpoints/best or a checkpoint
    resume: Any = False  # true: the newest unfinished run of this config; or a run's folder
    output_dir: str = "outputs"  # parent of the runs' folders
    # Samples per cell (task=lm: documents) that settings are chosen by, beside those of the test.
    # 0 disables validation, except for task=mqar and mad, which have a validation split.
    validation_samples: int = bounded(0, at_least=0)
    model: ModelSettings = field(default_factory=ModelSettings)
    scale: ScaleSettings = field(default_factory=ScaleSettings)
    task: TaskSettings = field(default_factory=TaskSettings)  # of one of tasks.registry.TASKS
    # Other tasks to evaluate the trained model on, each with its own record:
    # +task@evaluations.NAME=TASK
    evaluations: dict[str, TaskSettings] = field(default_factory=dict)
    text: TextSettings = field(default_factory=TextSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    hardware: HardwareSettings = field(default_factory=HardwareSettings)
    logger: LoggerSettings = field(default_factory=LoggerSettings)

    def make_task(self, tokenizer: Path | None = None) -> Task:
        """The task of this run, with the run's own or another tokenizer.

        Raises ValueError in one sentence for a text or tokenizer that is unavailable.
        """
        text = self.text if tokenizer is None else replace(self.text, tokenizer=str(tokenizer))
        question_every = self.training.question_every
        return self.task.make(text, seed=self.seed, question_every=question_every)
