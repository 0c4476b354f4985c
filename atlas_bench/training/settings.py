"""What a training run is asked to do."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from atlas_bench.config.renamed import rename_message
from atlas_bench.naming import nearest
from atlas_bench.tasks.stages import Stage
from atlas_bench.tasks.task import TaskSettings

STAGES = "training.curriculum.stages"


@dataclass
class CurriculumSettings:
    """Streams get noisier, then longer, whenever the answers' accuracy passes the threshold, or
    when a stage has had its share: a model that does not get there still meets every length."""

    stages: Any = None  # null: the task's own; or a list of stages, in turn
    threshold: float = 0.92  # running accuracy on answers that ends a stage
    patience: int = 40  # steps a stage lasts at least
    longest: float = 0.2  # share of training.tokens after which a stage ends all the same


@dataclass
class TrainingSettings:
    """Budget, optimizer and objective."""

    tokens: int = 1_000_000  # the budget
    # Passes over a task's fixed training set, instead of tokens; for tasks that have one.
    epochs: float | None = None
    batch_tokens: int = 512  # tokens a step
    min_sequences: int = 2  # sequences a step at least, however long they are
    accumulate: int = 1  # micro-batches a step; the same gradient with less memory
    learning_rate: float = 4e-3  # the highest; of AdamW
    final_rate: float = 0.1  # share of the learning rate that the cosine ends at
    warmup_steps: int = 500  # in which the learning rate rises from 0
    weight_decay: float = 0.01  # of matrices but for the memories' initial weights
    betas: list[float] = field(default_factory=lambda: [0.9, 0.98])  # of AdamW
    clip: float = 1.0  # norm of the gradient
    language_modelling_weight: float = 0.02  # of all other tokens beside the answers
    # Price on the mean of what is written and forgotten, in the stages that charge it: noise is
    # worth neither. Charged before facts are answered, it teaches never to write.
    change_penalty: float = 1.0
    question_every: int = 10  # tokens between two questions of a stream, on average
    checkpoint_every: int = 100  # steps
    validate_every: int | None = None  # steps; for tasks that have validation examples
    stop_at: float | None = None  # accuracy on them that ends training
    curriculum: CurriculumSettings = field(default_factory=CurriculumSettings)


def check_training(settings: TrainingSettings) -> None:
    """Raise ValueError in one sentence for a value that cannot be trained with."""
    for name in (
        "tokens",
        "batch_tokens",
        "min_sequences",
        "accumulate",
        "question_every",
        "checkpoint_every",
    ):
        if getattr(settings, name) < 1:
            raise ValueError(f"training.{name}={getattr(settings, name)} must be at least 1")
    for name in ("epochs", "validate_every", "stop_at"):
        if getattr(settings, name) is not None and getattr(settings, name) <= 0:
            raise ValueError(f"training.{name}={getattr(settings, name)} must be above 0, or null")
    if settings.stop_at is not None and settings.validate_every is None:
        raise ValueError("training.stop_at needs training.validate_every=STEPS to look at")
    for name in ("learning_rate", "clip"):
        if getattr(settings, name) <= 0:
            raise ValueError(f"training.{name}={getattr(settings, name)} must be above 0")
    for name in ("warmup_steps", "weight_decay", "language_modelling_weight", "change_penalty"):
        if getattr(settings, name) < 0:
            raise ValueError(f"training.{name}={getattr(settings, name)} must not be negative")
    if not 0 <= settings.final_rate <= 1:
        raise ValueError(f"training.final_rate={settings.final_rate} must lie in 0..1")
    if len(settings.betas) != 2 or not all(0 <= beta < 1 for beta in settings.betas):
        raise ValueError(f"training.betas={settings.betas} must be two numbers in 0..1, 1 excluded")
    if settings.curriculum.longest <= 0:
        raise ValueError(
            f"training.curriculum.longest={settings.curriculum.longest} must be above 0"
        )


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
    for name in given:
        if name in valid:
            continue
        renamed = rename_message(f"{STAGES}[].{name}")
        if renamed is not None:
            raise ValueError(renamed.replace(f"{STAGES}[]", key))
        raise ValueError(
            f"{key}.{name} is not a key of a stage of task={task.name}"
            f"{nearest(name, valid)}; valid are {_keys(task.stage)}"
        )
    try:
        stage = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(task.stage), given))
    except OmegaConfBaseException as error:
        raise ValueError(f"{key}.{error.full_key}: {str(error).splitlines()[0]}") from error
    stage.check(key)
    return stage


def _keys(stage: type[Stage]) -> str:
    return ", ".join(each.name for each in fields(stage))
