"""The settings of training."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

from atlas_bench.config.bounds import bounded, check_bounds
from atlas_bench.config.renamed import rename_message
from atlas_bench.config.typed import from_dict
from atlas_bench.naming import nearest
from atlas_bench.tasks.stages import Stage
from atlas_bench.tasks.task import TaskSettings

STAGES = "training.curriculum.stages"


@dataclass
class CurriculumSettings:
    """The stages of training, and when each ends: when the accuracy on answers reaches the
    threshold, or when the stage has used its share of the tokens, so that every stage is reached.
    """

    stages: Any = None  # null: the task's own; or a list of stages, in turn
    threshold: float = 0.92  # running accuracy on answers that ends a stage
    patience: int = 40  # minimum number of steps in a stage
    # Share of training.tokens after which a stage ends even below the threshold.
    longest: float = bounded(0.2, above=0)


@dataclass
class TrainingSettings:
    """Budget, optimizer and objective."""

    tokens: int = bounded(1_000_000, at_least=1)  # the budget
    # Passes over a task's fixed training set, instead of tokens; for tasks that have one.
    epochs: float | None = bounded(None, above=0)
    batch_tokens: int = bounded(512, at_least=1, at_most=2**32)  # tokens per step
    # Minimum number of sequences per step.
    min_sequences: int = bounded(2, at_least=1, at_most=2**20)
    # Micro-batches per step: the same gradient with less memory.
    accumulate: int = bounded(1, at_least=1, at_most=2**20)
    learning_rate: float = bounded(4e-3, above=0, at_most=1)  # peak learning rate of AdamW
    # Learning rate at the end of the cosine, as a share of the peak.
    final_rate: float = bounded(0.1, at_least=0, at_most=1)
    warmup_steps: int = bounded(500, at_least=0)  # steps in which the learning rate rises from 0
    # Weight decay of matrices, except the initial weights of memories.
    weight_decay: float = bounded(0.01, at_least=0)
    betas: list[float] = bounded([0.9, 0.98], at_least=0, below=1)  # the two betas of AdamW
    clip: float = bounded(1.0, above=0)  # maximum norm of the gradient
    # Weight of the loss on all other tokens, beside that on the answers.
    language_modelling_weight: float = bounded(0.02, at_least=0)
    # Penalty on the mean of what is written and forgotten, in the stages that charge it: noise is
    # worth neither. Charged before facts are answered, it teaches never to write.
    change_penalty: float = bounded(1.0, at_least=0)
    # Mean number of tokens between two questions of a stream.
    question_every: int = bounded(10, at_least=1)
    checkpoint_every: int = bounded(100, at_least=1)  # steps between checkpoints
    # Minutes after which a checkpoint is saved whatever the step; null: only by steps. It changes
    # no number.
    checkpoint_minutes: float | None = bounded(10.0, above=0)
    # Steps between validations, for tasks that have validation examples.
    validate_every: int | None = bounded(None, above=0)
    # Accuracy on the validation examples that ends training.
    stop_at: float | None = bounded(None, above=0)
    curriculum: CurriculumSettings = field(default_factory=CurriculumSettings)
    # Settings of this model and scale that were tried before validation chose, as conf/tuned says;
    # 0: not tuned.
    trials: int = bounded(0, at_least=0)
    # What validation chose, by dotted key; a run that departs from it counts as not tuned.
    chosen: dict[str, Any] = field(default_factory=dict)

    def step_sequences(self, stage: Stage) -> int:
        """The number of sequences of one step in a stage."""
        sequences = max(self.min_sequences, stage.sequences(self.batch_tokens))
        return max(1, sequences // self.accumulate) * self.accumulate


def check_training(settings: TrainingSettings) -> None:
    """Raise ValueError in one sentence for settings that cannot be trained with."""
    check_bounds(settings, "training.")
    if settings.stop_at is not None and settings.validate_every is None:
        raise ValueError("training.stop_at needs training.validate_every=STEPS to look at")
    if len(settings.betas) != 2:
        raise ValueError(f"training.betas={settings.betas} must be two numbers")


def with_stages(settings: TrainingSettings, task: TaskSettings) -> TrainingSettings:
    """The settings with the task's own stages where they name none, and every stage checked.

    Raises ValueError in one sentence, naming the key, for a stage that the task does not have.
    """
    given = settings.curriculum.stages
    if task.stage is None:  # nothing is trained
        return settings
    if given is None:
        stages = list(task.default_stages)
    elif isinstance(given, list) and given:
        stages = [_stage(f"{STAGES}[{i}]", each, task) for i, each in enumerate(given)]
    else:
        raise ValueError(
            f"{STAGES}={given} must be null or a list of stages, each of them "
            f"{{{_keys(task.stage)}}} with any of these keys"
        )
    return replace(settings, curriculum=replace(settings.curriculum, stages=stages))


def _stage(key: str, given: Any, task: TaskSettings) -> Stage:
    """One stage of the config as the task's stage class."""
    if not isinstance(given, dict):
        raise ValueError(f"{key}={given} must be a mapping with the keys {_keys(task.stage)}")
    valid = [each.name for each in fields(task.stage)]
    for name in (name for name in given if name not in valid):
        if renamed := rename_message(f"{STAGES}[].{name}"):
            raise ValueError(renamed.replace(f"{STAGES}[]", key))
        raise ValueError(
            f"{key}.{name} is not a key of a stage of task={task.name}"
            f"{nearest(name, valid)}; valid are {_keys(task.stage)}"
        )
    stage = from_dict(task.stage, given, f"{key}.")
    check_bounds(stage, f"{key}.")
    return stage


def _keys(stage: type[Stage]) -> str:
    return ", ".join(each.name for each in fields(stage))
