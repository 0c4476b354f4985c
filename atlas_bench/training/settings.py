"""What a training run is asked to do."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class CurriculumSettings:
    """Streams get noisier, then longer, whenever the answers' accuracy passes the threshold."""

    lengths: list[int] = field(  # tokens a stream
        default_factory=lambda: [64, 128, 256, 512, 1024, 2048, 4096]
    )
    noise: list[float] = field(default_factory=lambda: [0.0, 0.3, 0.6, 0.8, 0.9])
    threshold: float = 0.85  # running accuracy on answers that ends a stage
    patience: int = 15  # steps a stage lasts at least


@dataclass
class TrainingSettings:
    """Budget, optimizer and objective. A step has ``batch_tokens`` tokens, and one stream at least."""

    tokens: int = 2_400_000
    batch_tokens: int = 1024
    accumulate: int = 1  # micro-batches a step; the same gradient with less memory
    learning_rate: float = 4e-3
    final_rate: float = 0.1  # share of the learning rate that the cosine ends at
    warmup_steps: int = 50
    weight_decay: float = 0.01
    betas: list[float] = field(default_factory=lambda: [0.9, 0.98])
    clip: float = 1.0  # norm of the gradient
    language_modelling_weight: float = 0.1
    write_penalty: float = 0.03  # price on the mean of rate x weight: noise is not worth writing
    question_every: int = 20  # tokens between two questions of a stream, on average
    checkpoint_every: int = 100  # steps
    curriculum: CurriculumSettings = field(default_factory=CurriculumSettings)


def check_training(settings: TrainingSettings) -> None:
    """Raise ValueError in one sentence for a value that cannot be trained with."""
    for name in ("tokens", "batch_tokens", "accumulate", "question_every", "checkpoint_every"):
        if getattr(settings, name) < 1:
            raise ValueError(f"training.{name}={getattr(settings, name)} must be at least 1")
    for name in ("learning_rate", "clip"):
        if getattr(settings, name) <= 0:
            raise ValueError(f"training.{name}={getattr(settings, name)} must be above 0")
    for name in ("warmup_steps", "weight_decay", "language_modelling_weight", "write_penalty"):
        if getattr(settings, name) < 0:
            raise ValueError(f"training.{name}={getattr(settings, name)} must not be negative")
    if not 0 <= settings.final_rate <= 1:
        raise ValueError(f"training.final_rate={settings.final_rate} must lie in 0..1")
    if len(settings.betas) != 2 or not all(0 <= beta < 1 for beta in settings.betas):
        raise ValueError(f"training.betas={settings.betas} must be two numbers in 0..1, 1 excluded")
    curriculum = settings.curriculum
    if not curriculum.lengths or min(curriculum.lengths) < 64:
        raise ValueError(
            f"training.curriculum.lengths={curriculum.lengths} must name lengths of 64 tokens or more"
        )
    if not curriculum.noise or not all(0 <= share < 1 for share in curriculum.noise):
        raise ValueError(
            f"training.curriculum.noise={curriculum.noise} must be shares in 0..1, 1 excluded"
        )
