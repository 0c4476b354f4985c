"""The schema: one dataclass per config group; Hydra checks every key and type against it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore

from atlas_bench.config.schema import (
    HardwareSettings,
    LoggerSettings,
)
from atlas_bench.models.settings import (
    ModelSettings,
    ScaleSettings,
)
from atlas_bench.tasks.registry import TASKS
from atlas_bench.tasks.task import TaskSettings
from atlas_bench.text.settings import TextSettings
from atlas_bench.training.settings import TrainingSettings


@dataclass
class RunSettings:
    """The whole config of one run."""

    mode: str = "train_eval"  # describe prints what a model costs and runs nothing
    seed: int = 0  # of initial weights and training data; task.seed is the evaluation's
    name: str = "???"  # of the run's folder and in W&B; model and task where none is given
    checkpoint: str | None = None  # a run's folder, or one of its checkpoints, for mode=eval
    resume: Any = False  # true: the newest unfinished run of this config; or a run's folder
    output_dir: str = "outputs"  # where runs get their folders
    # Of each cell, apart from the scores', to choose settings by; documents of task=lm. At 0 there
    # are none, but of task=mqar and mad as many as they bring.
    validation_samples: int = 0
    model: ModelSettings = field(default_factory=ModelSettings)
    scale: ScaleSettings = field(default_factory=ScaleSettings)
    task: TaskSettings = field(default_factory=TaskSettings)  # of one of registry.TASKS
    # What else a trained model is asked, each with a record of its own: /task@evaluations.NAME
    evaluations: dict[str, TaskSettings] = field(default_factory=dict)
    text: TextSettings = field(default_factory=TextSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    hardware: HardwareSettings = field(default_factory=HardwareSettings)
    logger: LoggerSettings = field(default_factory=LoggerSettings)


def register_schema() -> None:
    """Make the schema known to Hydra under ``schema`` names."""
    store = ConfigStore.instance()
    store.store(name="schema", node=RunSettings)
    for name, task_settings in TASKS.items():
        store.store(group="task", name=f"{name}_schema", node=task_settings)
